use t2lc_runtime::nearest::Neighbor;

use super::{escape, html};
use crate::evaluate::report::tests::{evaluation, task};
use crate::evaluate::{Evaluation, TaskPoint};

/// Three tasks of two tiers; what they are called must not become markup.
fn scored() -> Evaluation {
    let scores = |base: f64, compiled: f64| [("base", Some(base)), ("compiled", Some(compiled))];
    let tasks = vec![
        task("slug", "near", &scores(0.0, 0.5)),
        task("<b>&\"'", "near", &scores(0.25, 0.25)),
        task("letter", "sibling", &[("base", Some(0.125)), ("compiled", None)]),
    ];
    evaluation("base", tasks)
}

fn point(id: &str, tier: &str, embedding: [f32; 3], training: bool) -> TaskPoint {
    let nearest = Neighbor { task: "upper</td>".into(), cosine: 0.625 };
    TaskPoint {
        id: id.into(),
        tier: tier.into(),
        description: format!("do {id} <now>"),
        embedding: embedding.to_vec(),
        adapter: embedding.iter().flat_map(|value| [*value, value * value]).collect(),
        nearest: (!training).then_some(nearest),
        training,
    }
}

fn points() -> Vec<TaskPoint> {
    vec![
        point("slug", "near", [1.0, 0.0, 0.0], false),
        point("<b>&\"'", "near", [0.0, 1.0, 0.0], false),
        point("letter", "sibling", [0.0, 0.0, 1.0], false),
        point("not evaluated", "far", [4.0, 4.0, 4.0], false),
        point("upper", "train", [0.5, 0.5, 0.0], true),
    ]
}

/// Checks that every element is closed, innermost first, and returns the names of all.
fn elements(page: &str) -> Vec<String> {
    let (mut open, mut names): (Vec<&str>, Vec<String>) = (Vec::new(), Vec::new());
    let mut rest = page;
    while let Some(start) = rest.find('<') {
        let end = start + rest[start..].find('>').expect("a tag without an end");
        let tag = &rest[start + 1..end];
        rest = &rest[end + 1..];
        assert!(!tag.contains('<'), "`<` within the tag `{tag}`");
        assert_eq!(tag.matches('"').count() % 2, 0, "an open quote in the tag `{tag}`");
        let name = tag.trim_start_matches('/').split([' ', '/']).next().unwrap();
        if let Some(closed) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(closed), "closed by `{tag}`");
        } else if !tag.ends_with('/') && !["meta", "!DOCTYPE"].contains(&name) {
            open.push(name);
        }
        names.push(name.to_owned());
    }
    assert!(open.is_empty(), "never closed: {open:?}");
    names
}

#[test]
fn the_page_is_well_formed_and_names_everything() {
    let page = html(&scored(), &points()).unwrap();
    let names = elements(&page);
    assert!(page.starts_with("<!DOCTYPE html>\n<html lang=\"en\">"));
    let count = |name: &str| names.iter().filter(|other| *other == name).count();
    // Each of the five pictures is one opened and one closed element, and so are the four tables.
    assert_eq!((count("svg"), count("table"), count("figure")), (10, 8, 6));
    assert_eq!((count("script"), count("link"), count("b")), (0, 0, 0));
    for id in ["slug", "&lt;b&gt;&amp;&quot;&#39;", "letter"] {
        assert!(page.contains(&format!("<th scope=\"row\">{id}</th>")), "{id}");
    }
    for text in ["sha256:00", "candle", "up to 50 per task, test", "no training sees", "0.625"] {
        assert!(page.contains(text), "{text}");
    }
    assert!(!page.contains("<now>") && !page.contains("upper</td>"));
    assert!(!page.contains("not evaluated"));
}

#[test]
fn the_page_loads_nothing() {
    let page = html(&scored(), &points()).unwrap();
    let alone = page.replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
    for reference in ["http", "url(", "@import", "src=", "href=", "<script", "//"] {
        assert!(!alone.contains(reference), "{reference}");
    }
}

#[test]
fn the_same_evaluation_gives_the_same_page() {
    assert_eq!(html(&scored(), &points()).unwrap(), html(&scored(), &points()).unwrap());
}

#[test]
fn a_page_without_points_has_scores_only() {
    let page = html(&scored(), &[]).unwrap();
    let names = elements(&page);
    assert_eq!(names.iter().filter(|name| *name == "svg").count(), 2);
    assert!(!page.contains("<h2>Maps") && !page.contains("<h2>Gain"));
    // A lone contestant is compared with nobody.
    let lone = evaluation("base", vec![task("t", "far", &[("base", Some(0.5))])]);
    let page = html(&lone, &points()).unwrap();
    elements(&page);
    assert!(!page.contains("<h2>Differences"), "{page}");
}

#[test]
fn points_that_do_not_fit_each_other_are_refused() {
    let mut points = points();
    points[1].adapter.pop();
    let error = format!("{:#}", html(&scored(), &points).unwrap_err());
    assert!(error.starts_with("cannot draw the map of adapters: vector 1"), "{error}");
}

#[test]
fn escaped_text_has_no_markup() {
    assert_eq!(escape("a<b>&\"'\u{7}é"), "a&lt;b&gt;&amp;&quot;&#39;\u{fffd}é");
}

#[test]
fn the_checker_sees_elements_that_are_not_closed() {
    for broken in ["<p><b></p></b>", "<p>", "</p>", "<p class=\"x>a</p>"] {
        assert!(std::panic::catch_unwind(|| elements(broken)).is_err(), "{broken}");
    }
    assert_eq!(elements("<p>a<meta b><circle r=\"1\"/></p>"), ["p", "meta", "circle", "p"]);
}
