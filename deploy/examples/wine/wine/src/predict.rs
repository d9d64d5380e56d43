//! From the body of `POST /predict` to its answer.
//!
//! - No default stands in for a feature that was not given, and none that the model does not know is ignored.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use wine_model::Model;

/// What a client sends.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    /// The measurements by name.
    features: BTreeMap<String, f64>,
}

/// What a client gets.
#[derive(Debug, Serialize)]
pub struct Answer {
    /// The quality, a whole number.
    pub quality: u8,
    /// The same before rounding.
    pub score: f64,
    /// The version of the model that said so.
    pub model: String,
}

/// Answers a request.
///
/// # Errors
/// The reason for which it is a bad one, in a sentence for the client.
pub fn predict(model: &Model, body: &[u8]) -> Result<Answer, String> {
    let request: Request = serde_json::from_slice(body).map_err(|error| format!("the body is no request: {error}"))?;
    let given = request.features;
    let missing: Vec<&str> = model.feature_names().filter(|name| !given.contains_key(*name)).collect();
    if !missing.is_empty() {
        return Err(format!("missing: {}", missing.join(", ")));
    }
    let unknown: Vec<&str> =
        given.keys().map(String::as_str).filter(|name| model.feature_names().all(|known| known != *name)).collect();
    if !unknown.is_empty() {
        return Err(format!("unknown: {}", unknown.join(", ")));
    }
    // The model takes values in its own order, whatever the order of the request.
    let values: Vec<f64> = model.feature_names().map(|name| given[name]).collect();
    let prediction = model.predict(&values).map_err(|error| error.to_string())?;
    Ok(Answer { quality: prediction.quality, score: prediction.score, model: model.version.clone() })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::tests::model;

    #[test]
    fn the_order_of_the_request_does_not_matter_and_that_of_the_model_does() {
        // The order of the model is sulphates, alcohol.
        for body in [
            r#"{"features": {"alcohol": 12.0, "sulphates": 0.5}}"#,
            r#"{"features": {"sulphates": 0.5, "alcohol": 12.0}}"#,
        ] {
            let answer = predict(&model(), body.as_bytes()).unwrap();
            assert_eq!((answer.quality, answer.score), (7, 7.0));
        }
    }

    #[test]
    fn a_bad_request_is_told_why() {
        for (body, reason) in [
            ("", "the body is no request"),
            ("[]", "the body is no request"),
            (r#"{"features": {}, "more": 1}"#, "unknown field `more`"),
            (r#"{"features": {"alcohol": 12.0}}"#, "missing: sulphates"),
            (r#"{"features": {"alcohol": 12.0, "sulphates": 0.5, "colour": 1}}"#, "unknown: colour"),
            (r#"{"features": {"alcohol": "12", "sulphates": 0.5}}"#, "invalid type: string"),
            (r#"{"features": {"alcohol": null, "sulphates": 0.5}}"#, "invalid type: null"),
            (r#"{"features": {"alcohol": 1e999, "sulphates": 0.5}}"#, "number out of range"),
            (r#"{"features": {"alcohol": 1e308, "sulphates": -1e308}}"#, "too far from any wine"),
        ] {
            let error = predict(&model(), body.as_bytes()).unwrap_err();
            assert!(error.contains(reason), "{error:?} should say {reason:?}");
        }
    }

    #[test]
    fn the_edit_that_the_demonstration_makes_has_its_line_once() {
        let line = concat!("let values: Vec<f64> = model.feature_names()", ".map(|name| given[name]).collect();");
        assert_eq!(include_str!("predict.rs").matches(line).count(), 1);
        let readme = include_str!("../../README.md");
        assert!(readme.contains(line), "README.md names the line");
    }
}
