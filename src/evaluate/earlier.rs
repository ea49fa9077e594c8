//! Scores of an earlier evaluation beside new ones, so that what does not change is scored once.
//!
//! In: two [`Evaluation`]s of the same base by the same engine on the same examples. Out: one, with
//! every contestant of either; what both have is the new one's. Means and differences are computed
//! anew, so that differences are paired by task.

use anyhow::{Context, Result, ensure};

use super::report::{Evaluation, TaskScores};

impl Evaluation {
    /// Adds the contestants of `earlier` that this one does not have, before its own.
    ///
    /// # Errors
    /// Another base, engine or pack; other examples or descriptions; a task that `earlier` lacks.
    pub fn beside(self, earlier: &Self) -> Result<Self> {
        let same = |what: &str, was: &str, is: &str| -> Result<()> {
            ensure!(was == is, "the earlier scores are of the {what} {was}, expected {is}");
            Ok(())
        };
        same("base", &earlier.base, &self.base)?;
        same("task pack", &earlier.pack, &self.pack)?;
        same("engine", &earlier.engine, &self.engine)?;
        same("split", &earlier.split, &self.split)?;
        same("wording", &format!("{:?}", earlier.wording), &format!("{:?}", self.wording))?;
        let descriptions = |of: &Self| format!("first {}", of.descriptions);
        same("descriptions, the", &descriptions(earlier), &descriptions(&self))?;
        let own = self.names();
        let mut names = earlier.names();
        names.retain(|name| !own.contains(name));
        let tasks = self.tasks.iter().map(|task| joined(task, earlier, &names));
        let tasks = tasks.collect::<Result<Vec<_>>>()?;
        names.extend(own);
        Ok(self.of_tasks(&names, tasks))
    }

    /// Whether it has a contestant of this name.
    pub fn has(&self, name: &str) -> bool {
        self.overall.scores.iter().any(|mean| mean.name == name)
    }

    /// Every contestant, in the order of the report.
    fn names(&self) -> Vec<String> {
        self.overall.scores.iter().map(|mean| mean.name.clone()).collect()
    }
}

/// A task with what `earlier` has for the contestants `names`.
fn joined(task: &TaskScores, earlier: &Evaluation, names: &[String]) -> Result<TaskScores> {
    let id = &task.id;
    let was = earlier.tasks.iter().find(|was| was.id == *id);
    let was = was.with_context(|| format!("the earlier scores have no task `{id}`"))?;
    ensure!(
        was.examples == task.examples,
        "the earlier scores of `{id}` are of {} examples, expected {}",
        was.examples,
        task.examples
    );
    let taken = was.scores.iter().filter(|score| names.contains(&score.name));
    let scores = taken.chain(&task.scores).cloned().collect();
    Ok(TaskScores { scores, ..task.clone() })
}

#[cfg(test)]
mod tests {
    use super::Evaluation;
    use crate::evaluate::report::tests::{evaluation, task};

    fn earlier() -> Evaluation {
        let scores = [("base", Some(0.25)), ("compiled", Some(0.0)), ("oracle", None)];
        let other = [("base", Some(0.5)), ("compiled", Some(0.0)), ("oracle", Some(1.0))];
        evaluation("compiled", vec![task("y", "far", &scores), task("x", "near", &other)])
    }

    fn new(id: &str) -> Evaluation {
        let scores = [("compiled", Some(0.75)), ("random", Some(0.5))];
        evaluation("compiled", vec![task(id, "near", &scores)])
    }

    #[test]
    fn earlier_contestants_are_compared_with_new_scores_on_the_same_tasks() {
        let both = new("x").beside(&earlier()).unwrap();
        assert_eq!(both.names(), ["base", "oracle", "compiled", "random"]);
        assert_eq!(both.tasks.len(), 1);
        let score = |name| both.tasks[0].score(name);
        assert_eq!((score("compiled"), score("oracle")), (Some(0.75), Some(1.0)));
        let differences = both.overall.differences.iter();
        let differences: Vec<_> =
            differences.map(|d| (d.name.as_str(), d.estimate.unwrap().mean)).collect();
        assert_eq!(differences, [("base", -0.25), ("oracle", 0.25), ("random", -0.25)]);
    }

    #[test]
    fn scores_of_something_else_are_refused() {
        let refused = |earlier: &Evaluation, id| new(id).beside(earlier).unwrap_err().to_string();
        assert_eq!(refused(&earlier(), "z"), "the earlier scores have no task `z`");
        let mut other = earlier();
        other.base = "sha256:11".into();
        let text = refused(&other, "x");
        assert_eq!(text, "the earlier scores are of the base sha256:11, expected sha256:base");
        let mut other = earlier();
        other.tasks[1].examples = 49;
        assert!(refused(&other, "x").ends_with("are of 49 examples, expected 50"));
        let mut other = earlier();
        other.descriptions = 2;
        assert!(refused(&other, "x").contains("first 2, expected first 1"));
    }
}
