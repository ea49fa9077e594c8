//! The conditions under which a task is scored, and a value for each of them.

use anyhow::Result;
use serde::{Deserialize, Serialize};

/// What the base has to go on besides the input of an example.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// Nothing: no adapter, and the prompt is the input alone.
    Base,
    /// The description in the prompt: no adapter, description, blank line, input.
    Prompted,
    /// The adapter compiled from the description; the prompt is the input alone.
    Compiled,
    /// An adapter compiled from a random text; the prompt is the input alone. What it gains is not
    /// due to the description.
    Random,
}

impl Condition {
    /// Every condition, in the order of reports.
    pub const ALL: [Self; 4] = [Self::Base, Self::Prompted, Self::Compiled, Self::Random];

    /// The name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Prompted => "prompted",
            Self::Compiled => "compiled",
            Self::Random => "random",
        }
    }
}

/// One value per condition.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PerCondition<T> {
    /// For [`Condition::Base`].
    pub base: T,
    /// For [`Condition::Prompted`].
    pub prompted: T,
    /// For [`Condition::Compiled`].
    pub compiled: T,
    /// For [`Condition::Random`].
    pub random: T,
}

impl<T> PerCondition<T> {
    /// Computes the value of every condition, in the order of [`Condition::ALL`].
    ///
    /// # Errors
    /// The first error of `value`.
    pub fn try_from_fn(mut value: impl FnMut(Condition) -> Result<T>) -> Result<Self> {
        Ok(Self {
            base: value(Condition::Base)?,
            prompted: value(Condition::Prompted)?,
            compiled: value(Condition::Compiled)?,
            random: value(Condition::Random)?,
        })
    }

    /// Computes the value of every condition, in the order of [`Condition::ALL`].
    pub fn from_fn(mut value: impl FnMut(Condition) -> T) -> Self {
        Self {
            base: value(Condition::Base),
            prompted: value(Condition::Prompted),
            compiled: value(Condition::Compiled),
            random: value(Condition::Random),
        }
    }

    /// The value of a condition.
    pub fn get(&self, condition: Condition) -> &T {
        match condition {
            Condition::Base => &self.base,
            Condition::Prompted => &self.prompted,
            Condition::Compiled => &self.compiled,
            Condition::Random => &self.random,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Condition, PerCondition};

    #[test]
    fn values_are_found_under_the_condition_they_were_made_for() {
        let names = PerCondition::from_fn(Condition::name);
        for condition in Condition::ALL {
            assert_eq!(*names.get(condition), condition.name());
        }
        let again = PerCondition::try_from_fn(|condition| Ok(condition.name())).unwrap();
        assert_eq!(again, names);
        let json =
            r#"{"base":"base","prompted":"prompted","compiled":"compiled","random":"random"}"#;
        assert_eq!(serde_json::to_string(&names).unwrap(), json);
    }
}
