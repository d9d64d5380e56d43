//! The model: its file format, and how a prediction is computed from it.
//!
//! A model is a weighted sum of *terms* over *features*. A feature is one measured number of a wine, brought to mean
//! 0 and deviation 1 by the
//! figures of the training data; a term is a feature, or the product of two.
//!
//! - This crate does not train, and knows nothing of the library that does: the file is plain JSON.
//! - The trainer and the service evaluate with this one function, so that they cannot differ in arithmetic.
//! - A model that is read is whole: no unknown feature in a term, no weight that is not finite, no empty or doubled
//!   name.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The only file format there is so far; another number is refused.
pub const FORMAT: u32 = 1;

/// Why a model cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// Not JSON, or JSON of another shape.
    #[error("not a model file: {0}")]
    Shape(#[from] serde_json::Error),
    /// A later format than this program knows.
    #[error("model format {found} is not known, only {FORMAT} is")]
    Format {
        /// The format named in the file.
        found: u32,
    },
    /// The JSON has the right shape, and makes no sense.
    #[error("the model contradicts itself: {0}")]
    Content(String),
    /// The features are finite and lead to a score that is not.
    #[error("the features are too far from any wine: the score is not a finite number")]
    Overflow,
    /// More or fewer values than features.
    #[error("{given} values given for {expected} features")]
    Count {
        /// How many there were.
        given: usize,
        /// How many features the model has.
        expected: usize,
    },
}

/// One measured number of a wine, and its distribution in the training data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Feature {
    /// The name, as in the header of the training data.
    pub name: String,
    /// The mean over the training data.
    pub mean: f64,
    /// The standard deviation over the training data; above 0.
    pub deviation: f64,
}

/// One summand of the score: the product of one or two scaled features, times a weight.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Term {
    /// One or two positions in [`Model::features`].
    pub of: Vec<usize>,
    /// The weight.
    pub weight: f64,
}

/// A trained model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Always [`FORMAT`].
    pub format: u32,
    /// Names the parameters and the training data that made it.
    pub version: String,
    /// What was fitted, for people.
    pub algorithm: String,
    /// The features, in the order in which [`Model::predict`] takes their values.
    pub features: Vec<Feature>,
    /// The score of the average wine.
    pub intercept: f64,
    /// The summands.
    pub terms: Vec<Term>,
    /// The lowest quality in the training data.
    pub lowest: u8,
    /// The highest quality in the training data.
    pub highest: u8,
}

/// What the model says about one wine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prediction {
    /// The quality, a whole number as tasters give it.
    pub quality: u8,
    /// The same before rounding, within the range of the training data.
    pub score: f64,
}

impl Model {
    /// Reads a model from its file's bytes and checks it.
    ///
    /// # Errors
    /// Every case of [`ModelError`] but [`ModelError::Overflow`] and [`ModelError::Count`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ModelError> {
        let model: Self = serde_json::from_slice(bytes)?;
        if model.format != FORMAT {
            return Err(ModelError::Format { found: model.format });
        }
        match model.contradiction() {
            Some(why) => Err(ModelError::Content(why)),
            None => Ok(model),
        }
    }

    /// The names of the features in the order in which [`Model::predict`] takes their values.
    pub fn feature_names(&self) -> impl Iterator<Item = &str> {
        self.features.iter().map(|feature| feature.name.as_str())
    }

    /// Predicts from the values of all features, in the model's own order.
    ///
    /// # Errors
    /// [`ModelError::Count`] and [`ModelError::Overflow`].
    pub fn predict(&self, values: &[f64]) -> Result<Prediction, ModelError> {
        if values.len() != self.features.len() {
            return Err(ModelError::Count { given: values.len(), expected: self.features.len() });
        }
        let scaled: Vec<f64> = self
            .features
            .iter()
            .zip(values)
            .map(|(feature, value)| (value - feature.mean) / feature.deviation)
            .collect();
        let sum: f64 =
            self.terms.iter().map(|term| term.weight * term.of.iter().map(|&at| scaled[at]).product::<f64>()).sum();
        let score = self.intercept + sum;
        if !score.is_finite() {
            return Err(ModelError::Overflow);
        }
        let score = score.clamp(f64::from(self.lowest), f64::from(self.highest));
        // The clamp keeps it within u8.
        Ok(Prediction { quality: score.round() as u8, score })
    }

    fn contradiction(&self) -> Option<String> {
        if self.features.is_empty() {
            return Some("it has no features".into());
        }
        if self.lowest > self.highest {
            return Some(format!("its lowest quality {} is above its highest {}", self.lowest, self.highest));
        }
        if !self.intercept.is_finite() {
            return Some("its intercept is not finite".into());
        }
        let mut names = BTreeSet::new();
        for feature in &self.features {
            if feature.name.is_empty() || !names.insert(&feature.name) {
                return Some(format!("the feature name {:?} is empty or there twice", feature.name));
            }
            if !feature.mean.is_finite() || !feature.deviation.is_finite() || feature.deviation <= 0.0 {
                return Some(format!("the scaling of {:?} is not a finite mean and a deviation above 0", feature.name));
            }
        }
        self.terms.iter().enumerate().find_map(|(at, term)| {
            if !(1..=2).contains(&term.of.len()) {
                Some(format!("term {at} is of {} features, not of one or two", term.of.len()))
            } else if let Some(unknown) = term.of.iter().find(|&&of| of >= self.features.len()) {
                Some(format!("term {at} is of feature {unknown}, and there are {}", self.features.len()))
            } else if !term.weight.is_finite() {
                Some(format!("the weight of term {at} is not finite"))
            } else {
                None
            }
        })
    }
}

/// The SHA-256 of some bytes, as 64 hexadecimal digits.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut hex, byte| {
        // Writing to a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn model() -> Model {
        Model {
            format: FORMAT,
            version: "test".into(),
            algorithm: "by hand".into(),
            features: vec![
                Feature { name: "a".into(), mean: 10.0, deviation: 2.0 },
                Feature { name: "b".into(), mean: 1.0, deviation: 0.5 },
            ],
            intercept: 5.5,
            terms: vec![Term { of: vec![0], weight: 0.25 }, Term { of: vec![0, 1], weight: -0.5 }],
            lowest: 3,
            highest: 8,
        }
    }

    #[test]
    fn a_prediction_is_the_weighted_sum_of_scaled_features() {
        // Scaled: a = 2, b = -1; 5.5 + 0.25 * 2 + -0.5 * 2 * -1.
        assert_eq!(model().predict(&[14.0, 0.5]).unwrap(), Prediction { quality: 7, score: 7.0 });
    }

    #[test]
    fn a_prediction_stays_within_the_qualities_that_were_trained() {
        assert_eq!(model().predict(&[1000.0, 1.0]).unwrap().quality, 8);
        assert_eq!(model().predict(&[-1000.0, 1.0]).unwrap().quality, 3);
    }

    #[test]
    fn what_cannot_be_computed_is_an_error() {
        assert!(matches!(model().predict(&[1e308, 1e308]), Err(ModelError::Overflow)));
        assert!(matches!(model().predict(&[1.0]), Err(ModelError::Count { given: 1, expected: 2 })));
    }

    #[test]
    fn a_file_is_read_back_as_it_was_written() {
        let bytes = serde_json::to_vec_pretty(&model()).unwrap();
        assert_eq!(Model::parse(&bytes).unwrap(), model());
    }

    #[test]
    fn a_file_that_makes_no_sense_is_refused_with_the_reason() {
        type Break = fn(&mut Model);
        let cases: [(Break, &str); 7] = [
            (|model| model.format = 2, "model format 2 is not known"),
            (|model| model.features.clear(), "no features"),
            (|model| model.features[1].name = "a".into(), "there twice"),
            (|model| model.features[0].deviation = 0.0, "a deviation above 0"),
            (|model| model.terms[1].of[1] = 2, "term 1 is of feature 2"),
            (|model| model.terms[1].of.clear(), "of 0 features"),
            (|model| model.highest = 1, "above its highest"),
        ];
        for (spoil, reason) in cases {
            let mut spoiled = model();
            spoil(&mut spoiled);
            let error = Model::parse(&serde_json::to_vec(&spoiled).unwrap()).unwrap_err().to_string();
            assert!(error.contains(reason), "{error:?} should say {reason:?}");
        }
        for text in ["", "null", "{}", "{\"format\": 1", "[1]"] {
            assert!(matches!(Model::parse(text.as_bytes()), Err(ModelError::Shape(_))), "{text:?}");
        }
    }

    #[test]
    fn the_digest_is_that_of_sha256sum() {
        assert_eq!(sha256(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
