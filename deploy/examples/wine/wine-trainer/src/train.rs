//! Fits the model, and measures it on the held-out wines.
//!
//! - There is no randomness: the same data and parameters give the same bytes.
//! - The held-out wines decide nothing about the model; they are only measured.
//! - Metrics come from the model as the service will read it (after rounding, through the same evaluation), not from
//!   the fitting library.

use linfa::prelude::*;
use linfa_elasticnet::ElasticNet;
use ndarray::{Array1, Array2};
use serde::{Deserialize, Serialize};
use wine_model::{FORMAT, Feature, Model, Term, sha256};

use crate::data::{FEATURES, Wine};

/// A fit that takes more has lost its way; good ones take hundreds.
const ITERATIONS: u32 = 10_000;

/// What can be chosen in `params.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// How much weights are pulled towards 0; 0 and more. The stronger, the fewer features count.
    pub penalty: f64,
    /// The share of the penalty that is L1 (weights become exactly 0), from 0 to 1; the rest is L2.
    pub l1_ratio: f64,
    /// 1: the features alone; 2: also their squares and products.
    pub degree: u8,
}

/// How good a model is on some wines.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Metrics {
    /// How many wines were predicted.
    pub n: usize,
    /// The share whose quality was predicted exactly.
    pub accuracy: f64,
    /// The mean distance of the score from the quality.
    pub mae: f64,
    /// The F1 of each quality that occurs, averaged over the qualities.
    pub f1_macro: f64,
}

/// What `metrics.json` says.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrainingReport {
    /// On the held-out wines.
    #[serde(flatten)]
    pub held_out: Metrics,
    /// The accuracy of always saying the commonest quality of the training data, on the held-out wines.
    pub baseline_accuracy: f64,
    /// The mean distance of always saying the mean quality of the training data, on the held-out wines.
    pub baseline_mae: f64,
    /// On the wines that it was trained with.
    pub train_accuracy: f64,
    /// How many those were.
    pub train_n: usize,
    /// How many terms of the model have a weight.
    pub terms: usize,
    /// What was asked for.
    pub params: Params,
    /// The version of the model.
    pub model: String,
}

/// Fits a model.
///
/// # Errors
/// Parameters out of range, training data of one quality or without variation, a fit that does not converge.
pub fn fit(wines: &[Wine], params: &Params) -> Result<Model, String> {
    check(params)?;
    let features = scaling(wines)?;
    let terms = candidates(params.degree);
    let scaled: Vec<Vec<f64>> = wines.iter().map(|wine| scale(&features, wine)).collect();
    let records = Array2::from_shape_fn((wines.len(), terms.len()), |(row, column)| {
        terms[column].iter().map(|&of| scaled[row][of]).product()
    });
    let targets: Array1<f64> = wines.iter().map(|wine| f64::from(wine.quality)).collect();
    let fitted = ElasticNet::params()
        .penalty(params.penalty)
        .l1_ratio(params.l1_ratio)
        .max_iterations(ITERATIONS)
        .tolerance(1e-8)
        .fit(&Dataset::new(records, targets))
        .map_err(|error| format!("cannot fit: {error}"))?;
    if fitted.n_steps() >= ITERATIONS {
        return Err(format!("the fit did not converge in {ITERATIONS} steps: raise the penalty"));
    }
    let terms = terms
        .into_iter()
        .zip(fitted.hyperplane())
        .map(|(of, &weight)| Term { of, weight: rounded(weight) })
        .filter(|term| term.weight != 0.0)
        .collect();
    Ok(Model {
        format: FORMAT,
        version: version(wines, params)?,
        algorithm: "elastic-net".into(),
        features,
        intercept: rounded(fitted.intercept()),
        terms,
        lowest: wines.iter().map(|wine| wine.quality).min().unwrap_or_default(),
        highest: wines.iter().map(|wine| wine.quality).max().unwrap_or_default(),
    })
}

fn check(params: &Params) -> Result<(), String> {
    if !params.penalty.is_finite() || params.penalty < 0.0 {
        return Err(format!("penalty is {}, and must be 0 or more", params.penalty));
    }
    if !(0.0..=1.0).contains(&params.l1_ratio) {
        return Err(format!("l1_ratio is {}, and must be from 0 to 1", params.l1_ratio));
    }
    if !(1..=2).contains(&params.degree) {
        return Err(format!("degree is {}, and must be 1 or 2", params.degree));
    }
    Ok(())
}

/// Processors differ in the last bits of a sum; six places are the same on all of them and cost no accuracy.
fn rounded(value: f64) -> f64 {
    // The sum turns -0 into 0.
    (value * 1e6).round() / 1e6 + 0.0
}

fn scaling(wines: &[Wine]) -> Result<Vec<Feature>, String> {
    let count = wines.len() as f64;
    FEATURES
        .iter()
        .enumerate()
        .map(|(at, name)| {
            let mean = wines.iter().map(|wine| wine.features[at]).sum::<f64>() / count;
            let variance = wines.iter().map(|wine| (wine.features[at] - mean).powi(2)).sum::<f64>() / count;
            let feature = Feature { name: (*name).into(), mean: rounded(mean), deviation: rounded(variance.sqrt()) };
            if feature.deviation > 0.0 { Ok(feature) } else { Err(format!("{name} is the same in all training rows")) }
        })
        .collect()
}

fn scale(features: &[Feature], wine: &Wine) -> Vec<f64> {
    features.iter().zip(wine.features).map(|(feature, value)| (value - feature.mean) / feature.deviation).collect()
}

fn candidates(degree: u8) -> Vec<Vec<usize>> {
    let mut terms: Vec<Vec<usize>> = (0..FEATURES.len()).map(|of| vec![of]).collect();
    if degree == 2 {
        terms.extend((0..FEATURES.len()).flat_map(|one| (one..FEATURES.len()).map(move |other| vec![one, other])));
    }
    terms
}

fn version(wines: &[Wine], params: &Params) -> Result<String, String> {
    let params = serde_json::to_string(params).map_err(|error| format!("cannot write the parameters: {error}"))?;
    let inputs = format!("{params}\n{wines:?}");
    Ok(sha256(inputs.as_bytes())[..12].to_owned())
}

/// Fits with some wines and measures on others.
///
/// # Errors
/// As [`fit`] and [`measure`].
pub fn train(train: &[Wine], test: &[Wine], params: &Params) -> Result<(Model, TrainingReport), String> {
    let model = fit(train, params)?;
    let score = |wine: &Wine| model.predict(&wine.features).map_err(|error| error.to_string());
    let pairs = |wines: &[Wine]| -> Result<Vec<Outcome>, String> {
        wines
            .iter()
            .map(|wine| {
                score(wine).map(|said| Outcome { actual: wine.quality, quality: said.quality, score: said.score })
            })
            .collect()
    };
    let commonest = (0..=u8::MAX).max_by_key(|quality| train.iter().filter(|wine| wine.quality == *quality).count());
    let commonest = commonest.unwrap_or_default();
    let mean = train.iter().map(|wine| f64::from(wine.quality)).sum::<f64>() / train.len() as f64;
    let baseline: Vec<Outcome> =
        test.iter().map(|wine| Outcome { actual: wine.quality, quality: commonest, score: mean }).collect();
    let baseline = measure(&baseline)?;
    let report = TrainingReport {
        held_out: measure(&pairs(test)?)?,
        baseline_accuracy: baseline.accuracy,
        baseline_mae: baseline.mae,
        train_accuracy: measure(&pairs(train)?)?.accuracy,
        train_n: train.len(),
        terms: model.terms.len(),
        params: params.clone(),
        model: model.version.clone(),
    };
    Ok((model, report))
}

/// What tasters said about a wine, and what was predicted.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// What tasters said.
    pub actual: u8,
    /// The predicted quality.
    pub quality: u8,
    /// The score before rounding.
    pub score: f64,
}

/// Measures predictions.
///
/// # Errors
/// There are none: nothing measured is no result.
pub fn measure(outcomes: &[Outcome]) -> Result<Metrics, String> {
    if outcomes.is_empty() {
        return Err("nothing was predicted".into());
    }
    let n = outcomes.len();
    let right = outcomes.iter().filter(|outcome| outcome.actual == outcome.quality).count();
    let distance: f64 = outcomes.iter().map(|outcome| (outcome.score - f64::from(outcome.actual)).abs()).sum();
    let f1_of = |quality: u8| {
        let actual = outcomes.iter().filter(|outcome| outcome.actual == quality).count();
        let said = outcomes.iter().filter(|outcome| outcome.quality == quality).count();
        let both = outcomes.iter().filter(|outcome| outcome.actual == quality && outcome.quality == quality).count();
        (actual > 0).then(|| 2.0 * both as f64 / (actual + said) as f64)
    };
    let f1: Vec<f64> = (0..=u8::MAX).filter_map(f1_of).collect();
    Ok(Metrics {
        n,
        accuracy: rounded(right as f64 / n as f64),
        mae: rounded(distance / n as f64),
        f1_macro: rounded(f1.iter().sum::<f64>() / f1.len() as f64),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::data::split;

    fn params(name: &str) -> Params {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    #[test]
    fn the_better_parameters_are_clearly_better_and_both_beat_the_baseline() {
        let (wines, test) = split().unwrap();
        let (_, basic) = train(&wines, &test, &params("params.json")).unwrap();
        let (_, better) = train(&wines, &test, &params("params-better.json")).unwrap();
        assert!(basic.held_out.accuracy > basic.baseline_accuracy + 0.1, "{basic:?}");
        assert!(better.held_out.accuracy > basic.held_out.accuracy + 0.05, "{basic:?} {better:?}");
        assert!(better.held_out.mae < basic.held_out.mae - 0.05, "{basic:?} {better:?}");
        assert!(better.held_out.f1_macro > basic.held_out.f1_macro + 0.05, "{basic:?} {better:?}");
        assert_ne!(basic.model, better.model);
    }

    #[test]
    fn parameters_out_of_range_are_refused() {
        let (wines, _) = split().unwrap();
        let good = params("params.json");
        for (params, reason) in [
            (Params { penalty: -1.0, ..good.clone() }, "penalty is -1"),
            (Params { l1_ratio: 1.5, ..good.clone() }, "l1_ratio is 1.5"),
            (Params { degree: 3, ..good.clone() }, "degree is 3"),
        ] {
            let error = fit(&wines, &params).unwrap_err();
            assert!(error.contains(reason), "{error:?} should say {reason:?}");
        }
        assert!(fit(&wines[..1], &good).unwrap_err().contains("the same in all training rows"));
        let unknown = serde_json::from_str::<Params>(r#"{"penalty":1,"l1_ratio":1,"degree":1,"depth":3}"#);
        assert!(unknown.unwrap_err().to_string().contains("unknown field `depth`"));
    }

    #[test]
    fn measures_are_what_their_names_say() {
        let outcome = |actual, quality, score| Outcome { actual, quality, score };
        let metrics =
            measure(&[outcome(5, 5, 5.2), outcome(5, 6, 5.6), outcome(6, 6, 6.0), outcome(7, 6, 6.4)]).unwrap();
        assert_eq!(metrics.n, 4);
        assert_eq!(metrics.accuracy, 0.5);
        assert_eq!(metrics.mae, 0.35);
        // 5: 2·1/(2+1); 6: 2·1/(1+3); 7: 0.
        assert_eq!(metrics.f1_macro, 0.388_889);
        assert!(measure(&[]).is_err());
    }
}
