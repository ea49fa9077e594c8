//! The scoring rules: an answer and the right answers in, a score out.
//!
//! - Exact match: white space at both ends is removed from the answer and from every reference;
//!   what is left must be equal, character by character.
//! - Choice accuracy: the choice with the largest log-probability wins, the first one if several
//!   have it.
//! - ROUGE-L: the F-measure (equal weight of precision and recall) of the longest common
//!   subsequence of tokens, for the best reference. Texts are lower-cased and split at everything
//!   that is neither letter nor digit; a text without tokens scores 0. Source: Lin, "ROUGE: A
//!   Package for Automatic Evaluation of Summaries", 2004, section 3.

/// Whether `answer` equals one of the references, white space at the ends aside.
pub(super) fn exact_match(answer: &str, references: &[&str]) -> bool {
    references.iter().any(|reference| reference.trim() == answer.trim())
}

/// Whether an answer that starts with `partial` may still become an exact match. `partial` may end
/// inside a character, which shows as U+FFFD.
pub(super) fn can_still_match(partial: &str, references: &[&str]) -> bool {
    let partial = partial.trim_start().trim_end_matches('\u{FFFD}');
    references.iter().any(|reference| {
        let reference = reference.trim();
        reference.starts_with(partial) || reference == partial.trim_end()
    })
}

/// Index of the largest value, the first one if several are; `None` if there are no values.
pub(super) fn likeliest(log_likelihoods: &[f64]) -> Option<usize> {
    let mut best: Option<(usize, f64)> = None;
    for (index, &value) in log_likelihoods.iter().enumerate() {
        if best.is_none_or(|(_, largest)| value > largest) {
            best = Some((index, value));
        }
    }
    best.map(|(index, _)| index)
}

/// ROUGE-L F-measure against the best reference, from 0 to 1.
pub(super) fn rouge_l(answer: &str, references: &[&str]) -> f64 {
    let answer = tokens(answer);
    let scores = references.iter().map(|reference| f_measure(&answer, &tokens(reference)));
    scores.fold(0.0, f64::max)
}

fn tokens(text: &str) -> Vec<String> {
    let lower = text.to_lowercase();
    let parts = lower.split(|c: char| !c.is_alphanumeric());
    parts.filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

fn f_measure(answer: &[String], reference: &[String]) -> f64 {
    let common = longest_common_subsequence(answer, reference);
    if common == 0 {
        return 0.0;
    }
    // 2PR / (P + R) with P = common / answer and R = common / reference
    2.0 * common as f64 / (answer.len() + reference.len()) as f64
}

/// Length of the longest sequence that both contain in order, not necessarily in one piece.
fn longest_common_subsequence(left: &[String], right: &[String]) -> usize {
    // `row[j]` is the length for the left tokens so far and the first `j` right ones.
    let mut row = vec![0; right.len() + 1];
    for token in left {
        let mut diagonal = 0;
        for (j, other) in right.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = if token == other { diagonal + 1 } else { above.max(row[j]) };
            diagonal = above;
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::{can_still_match, exact_match, likeliest, rouge_l};

    #[test]
    fn exact_matches_ignore_white_space_at_the_ends_only() {
        assert!(exact_match(" Rome\n", &["Rome"]));
        assert!(exact_match("b", &["a", "b "]));
        assert!(!exact_match("rome", &["Rome"]));
        assert!(!exact_match("New  York", &["New York"]));
        assert!(!exact_match("Rome.", &["Rome"]));
        assert!(!exact_match("Rome", &[]));
    }

    #[test]
    fn answers_are_given_up_only_when_no_reference_is_left() {
        let references = ["New York", "Rome "];
        for partial in
            ["", " ", "N", " New", "New ", "New York", "New York \n", "Rome", "New\u{FFFD}"]
        {
            assert!(can_still_match(partial, &references), "{partial:?}");
        }
        for partial in ["n", "New  ", "New York.", "Rome x", "\u{FFFD}x"] {
            assert!(!can_still_match(partial, &references), "{partial:?}");
        }
    }

    #[test]
    fn the_first_of_the_likeliest_wins() {
        assert_eq!(likeliest(&[-3.0, -1.0, -1.0]), Some(1));
        assert_eq!(likeliest(&[f64::NEG_INFINITY]), Some(0));
        assert_eq!(likeliest(&[]), None);
    }

    fn close(got: f64, expected: f64) -> bool {
        (got - expected).abs() < 1e-12
    }

    #[test]
    fn rouge_l_counts_the_longest_common_subsequence() {
        // common: police … the gunman; 4 tokens each
        assert!(close(rouge_l("police kill the gunman", &["police killed the gunman"]), 0.75));
        // common: the gunman
        assert!(close(rouge_l("the gunman kill police", &["police killed the gunman"]), 0.5));
        // common: a c, of 3 and 2 tokens
        assert!(close(rouge_l("a b c", &["a c"]), 0.8));
    }

    #[test]
    fn rouge_l_ignores_case_and_punctuation_and_takes_the_best_reference() {
        assert!(close(rouge_l("It's RED, really!", &["no", "it s red really"]), 1.0));
        assert!(close(rouge_l("x", &["y", "z"]), 0.0));
        assert!(close(rouge_l("", &["", "!"]), 0.0));
        assert!(close(rouge_l("x", &[]), 0.0));
    }
}
