//! The time that a server says it is.

use crate::http::{causes, client};
use jiff::{Timestamp, fmt::rfc2822};
use std::time::Duration;

/// How long a server may take to say it.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The `Date` of a server's answer, whatever else the answer says. Its resolution is a second.
pub async fn server_time(url: &str) -> Result<Timestamp, String> {
    let client = client(url, false)?;
    let answer = client.head(url).timeout(TIMEOUT).send().await.map_err(|error| causes(&error))?;
    let date = answer.headers().get("date").and_then(|date| date.to_str().ok());
    let date = date.ok_or_else(|| format!("{url} does not say what time it is"))?;
    rfc2822::DateTimeParser::new()
        .parse_timestamp(date)
        .map_err(|error| format!("{url} says a time that is none: {error}"))
}
