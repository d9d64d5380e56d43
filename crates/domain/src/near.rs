//! Near matches, for "did you mean".

/// The candidates close to `wanted`, best first, at most three.
pub fn matches<'a>(wanted: &str, candidates: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut scored: Vec<(f64, &str)> = candidates
        .into_iter()
        .map(|candidate| {
            let score = strsim::jaro_winkler(&wanted.to_lowercase(), &candidate.to_lowercase());
            let contained = wanted.len() >= 3 && (candidate.contains(wanted) || wanted.contains(candidate));
            (if contained { score.max(0.9) } else { score }, candidate)
        })
        .filter(|(score, _)| *score >= 0.8)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    scored.into_iter().take(3).map(|(_, candidate)| candidate.to_owned()).collect()
}

/// The end of an error sentence: the near matches, or what there is, or that there is none.
pub fn sentence(near: &[String], known: &[String]) -> String {
    match (near, known) {
        ([], []) => "; there are none yet".to_owned(),
        ([], known) => format!("; there are {}", known.join(", ")),
        (near, _) => format!("; did you mean {}?", near.join(" or ")),
    }
}
