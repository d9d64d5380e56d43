//! SigV4 by hand, so that a test can sign anything, and break it.

// See the module above.
#![allow(clippy::unwrap_used, dead_code)]

use sha2::{Digest as _, Sha256};
use std::time::{SystemTime, UNIX_EPOCH};

pub(crate) const KEY: &str = "a-key-of-tests";
pub(crate) const SECRET: &str = "a-secret/of+tests";
pub(crate) const UNSIGNED: &str = "UNSIGNED-PAYLOAD";

pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

pub(crate) fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut block = [0; 64];
    block[..key.len()].copy_from_slice(key);
    let inner = Sha256::new().chain_update(block.map(|byte| byte ^ 0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(block.map(|byte| byte ^ 0x5c)).chain_update(inner).finalize().into()
}

/// Year, month, day of a day since 1970 (Howard Hinnant's `civil_from_days`).
fn date(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + u64::from(month <= 2), month, day)
}

/// The time, so many seconds from now, as `x-amz-date` has it.
pub(crate) fn moment(offset: i64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let seconds = now.checked_add_signed(offset).unwrap();
    let (year, month, day) = date(seconds / 86_400);
    let of_day = seconds % 86_400;
    format!("{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z", of_day / 3600, of_day / 60 % 60, of_day % 60)
}

/// A request that is to be signed. `query` is in its canonical order and encoding, without a `?`; `headers` are lower case.
#[derive(Debug, Clone)]
pub(crate) struct Signer<'a> {
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    pub(crate) query: &'a str,
    pub(crate) headers: Vec<(&'a str, &'a str)>,
    /// What `x-amz-content-sha256` says.
    pub(crate) payload: String,
    pub(crate) key: &'a str,
    pub(crate) secret: &'a str,
    pub(crate) time: String,
}

/// What was signed.
#[derive(Debug, Clone)]
pub(crate) struct Signed {
    /// The fields of the head, each with its end.
    pub(crate) headers: String,
    pub(crate) signature: String,
    key: [u8; 32],
    scope: String,
    time: String,
}

impl<'a> Signer<'a> {
    pub(crate) fn new(method: &'a str, path: &'a str, body: &[u8]) -> Self {
        let (payload, time) = (sha256(body), moment(0));
        Self { method, path, query: "", headers: Vec::new(), payload, key: KEY, secret: SECRET, time }
    }

    fn scope(&self) -> String {
        format!("{}/us-east-1/s3/aws4_request", &self.time[..8])
    }

    fn key(&self) -> [u8; 32] {
        let first = hmac(format!("AWS4{}", self.secret).as_bytes(), &self.time.as_bytes()[..8]);
        ["us-east-1", "s3", "aws4_request"].iter().fold(first, |key, part| hmac(&key, part.as_bytes()))
    }

    fn signature(&self, query: &str, headers: &[(&str, &str)], payload: &str) -> String {
        let fields: String = headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
        let canonical = format!("{}\n{}\n{query}\n{fields}\n{}\n{payload}", self.method, self.path, names.join(";"));
        let scope = self.scope();
        let to_sign = format!("AWS4-HMAC-SHA256\n{}\n{scope}\n{}", self.time, sha256(canonical.as_bytes()));
        hex::encode(hmac(&self.key(), to_sign.as_bytes()))
    }

    pub(crate) fn sign(&self) -> Signed {
        let mut headers = self.headers.clone();
        let own = [("host", "test"), ("x-amz-content-sha256", self.payload.as_str()), ("x-amz-date", &self.time)];
        headers.extend(own);
        headers.sort_unstable();
        let signature = self.signature(self.query, &headers, &self.payload);
        let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
        let sent: String = headers
            .iter()
            .filter(|(name, _)| *name != "host")
            .map(|(name, value)| format!("{name}: {value}\r\n"))
            .collect();
        let (names, scope) = (names.join(";"), self.scope());
        let headers = format!(
            "{sent}authorization: AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={signature}\r\n",
            self.key
        );
        Signed { headers, signature, key: self.key(), scope, time: self.time.clone() }
    }

    /// The address with the signature in it.
    pub(crate) fn presign(&self, expires: i64) -> String {
        let scope = self.scope().replace('/', "%2F");
        let query = format!(
            "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={}%2F{scope}&X-Amz-Date={}&X-Amz-Expires={expires}&X-Amz-SignedHeaders=host",
            self.key, self.time
        );
        let signature = self.signature(&query, &[("host", "test")], UNSIGNED);
        format!("{}?{query}&X-Amz-Signature={signature}", self.path)
    }
}

impl Signed {
    /// Chunks of a body, each with its signature, and the empty one behind them.
    pub(crate) fn chunks(&self, pieces: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut last = self.signature.clone();
        let mut chunk = |piece: &[u8]| {
            let to_sign = format!(
                "AWS4-HMAC-SHA256-PAYLOAD\n{}\n{}\n{last}\n{}\n{}",
                self.time,
                self.scope,
                sha256(b""),
                sha256(piece)
            );
            last = hex::encode(hmac(&self.key, to_sign.as_bytes()));
            let head = format!("{:x};chunk-signature={last}\r\n", piece.len());
            [head.as_bytes(), piece, b"\r\n"].concat()
        };
        pieces.iter().copied().chain([&b""[..]]).map(&mut chunk).collect()
    }
}
