//! The UCI wine-quality data (red wine) as CSV files, and the split into training and held-out rows.
//!
//! - The split has no seed and no shuffle: a row's own measurements decide, so it is the same on every machine, and
//!   copies of one wine
//!   (the data has many) are never on both sides.
//! - A file with another header, a missing field or a number that is not finite is refused with its line; no row is
//!   skipped.

use std::fmt::Write as _;
use std::path::Path;

use linfa::dataset::AsSingleTargets as _;
use wine_model::sha256;

/// The measurements of a wine, in the order of the files.
pub const FEATURES: [&str; 11] = [
    "fixed_acidity",
    "volatile_acidity",
    "citric_acid",
    "residual_sugar",
    "chlorides",
    "free_sulfur_dioxide",
    "total_sulfur_dioxide",
    "density",
    "ph",
    "sulphates",
    "alcohol",
];

/// The last column: what tasters said, 0 to 10.
pub const TARGET: &str = "quality";

/// One wine.
#[derive(Debug, Clone, PartialEq)]
pub struct Wine {
    /// In the order of [`FEATURES`].
    pub features: [f64; FEATURES.len()],
    /// What tasters said.
    pub quality: u8,
}

/// All wines: those to train with, and those held out, in this order.
///
/// # Errors
/// If the data compiled in is not what it was.
pub fn split() -> Result<(Vec<Wine>, Vec<Wine>), String> {
    let dataset = linfa_datasets::winequality();
    let targets = dataset.as_single_targets();
    let wines = dataset.records.rows().into_iter().zip(targets).map(|(row, &quality)| {
        let features = row.iter().copied().collect::<Vec<f64>>().try_into().map_err(|row: Vec<f64>| {
            format!("a row of the data set has {} measurements instead of {}", row.len(), FEATURES.len())
        })?;
        Ok(Wine { features, quality: u8::try_from(quality).map_err(|_| format!("{quality} is no quality"))? })
    });
    let wines = wines.collect::<Result<Vec<Wine>, String>>()?;
    Ok(wines.into_iter().partition(|wine| !held_out(wine)))
}

/// About a quarter, decided by the digest of the measurements.
fn held_out(wine: &Wine) -> bool {
    sha256(line(wine, false).as_bytes()).as_bytes()[0] < b'4'
}

fn line(wine: &Wine, with_target: bool) -> String {
    let mut line = wine.features.map(|value| value.to_string()).join(",");
    if with_target {
        // Writing to a String cannot fail.
        let _ = write!(line, ",{}", wine.quality);
    }
    line
}

fn header() -> String {
    format!("{},{TARGET}", FEATURES.join(","))
}

/// Writes wines as CSV with a header.
///
/// # Errors
/// The file cannot be written.
pub fn write(path: &Path, wines: &[Wine]) -> Result<(), String> {
    let mut text = header() + "\n";
    for wine in wines {
        text.push_str(&line(wine, true));
        text.push('\n');
    }
    std::fs::write(path, text).map_err(|error| format!("{}: cannot write: {error}", path.display()))
}

/// Reads what [`write()`] wrote.
///
/// # Errors
/// The file cannot be read, or a line of it is not a wine.
pub fn read(path: &Path) -> Result<Vec<Wine>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        format!("{}: cannot read: {error} (`wine-trainer data --to DIR` writes train.csv and test.csv)", path.display())
    })?;
    parse(&text).map_err(|error| format!("{}: {error}", path.display()))
}

fn parse(text: &str) -> Result<Vec<Wine>, String> {
    let mut lines = text.lines();
    let found = lines.next().unwrap_or_default();
    if found != header() {
        return Err(format!("line 1: the header is {found:?}, not {:?}", header()));
    }
    let wines: Vec<Wine> = lines
        .enumerate()
        .map(|(at, line)| parse_line(line).map_err(|error| format!("line {}: {error}", at + 2)))
        .collect::<Result<_, _>>()?;
    if wines.is_empty() { Err("no rows".into()) } else { Ok(wines) }
}

fn parse_line(line: &str) -> Result<Wine, String> {
    let fields: Vec<&str> = line.split(',').collect();
    let Some((quality, features)) = fields.split_last().filter(|(_, features)| features.len() == FEATURES.len()) else {
        return Err(format!("{} fields instead of {}", fields.len(), FEATURES.len() + 1));
    };
    let mut wine = Wine {
        features: [0.0; FEATURES.len()],
        quality: quality.parse().map_err(|_| format!("{TARGET} is {quality:?}, not a whole number of 0 to 255"))?,
    };
    for ((value, field), name) in wine.features.iter_mut().zip(features).zip(FEATURES) {
        *value = field
            .parse()
            .ok()
            .filter(|number: &f64| number.is_finite())
            .ok_or_else(|| format!("{name} is {field:?}, not a finite number"))?;
    }
    Ok(wine)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn no_wine_is_on_both_sides_and_none_is_lost() {
        let (train, test) = split().unwrap();
        assert_eq!(train.len() + test.len(), 1599);
        assert!((300..=500).contains(&test.len()), "{} held out", test.len());
        assert!(!test.iter().any(|wine| train.iter().any(|other| other.features == wine.features)));
    }

    #[test]
    fn what_was_written_is_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("test.csv");
        let (_, test) = split().unwrap();
        write(&path, &test).unwrap();
        assert_eq!(read(&path).unwrap(), test);
    }

    #[test]
    fn a_bad_file_is_refused_with_the_line() {
        let good = "7.4,0.7,0,1.9,0.076,11,34,0.9978,3.51,0.56,9.4,5";
        for (text, reason) in [
            (String::new(), "line 1: the header"),
            (header(), "no rows"),
            (format!("{}\n{good}\n7.4,5\n", header()), "line 3: 2 fields instead of 12"),
            (format!("{}\n{}\n", header(), good.replace("0.9978", "NaN")), "line 2: density is \"NaN\""),
            (format!("{}\n{}.5\n", header(), good), "line 2: quality is \"5.5\""),
        ] {
            let error = parse(&text).unwrap_err();
            assert!(error.contains(reason), "{error:?} should say {reason:?}");
        }
    }
}
