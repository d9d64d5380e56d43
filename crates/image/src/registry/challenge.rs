//! `WWW-Authenticate`, as registries write it (RFC 9110 §11.6.1).

/// One way to log in that a registry offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Challenge {
    /// In lower case: `bearer`, `basic`.
    pub(crate) scheme: String,
    /// Parameters; names in lower case, quotes and escapes undone.
    pub(crate) parameters: Vec<(String, String)>,
}

impl Challenge {
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Reads a header that may hold several challenges. What is no challenge ends the reading; what was read before it counts.
pub(crate) fn challenges(header: &str) -> Vec<Challenge> {
    let mut found: Vec<Challenge> = Vec::new();
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let (word, after) = token(rest);
        if word.is_empty() {
            return found;
        }
        let value = after.trim_start_matches([' ', '\t']).strip_prefix('=');
        match (value, found.last_mut()) {
            // `name=value` belongs to the challenge before it; a scheme is followed by a blank or nothing.
            (Some(value), Some(last)) => {
                let Some((text, after)) = parameter(value.trim_start_matches([' ', '\t'])) else { return found };
                last.parameters.push((word.to_ascii_lowercase(), text));
                rest = after;
            }
            (Some(_), None) => return found,
            (None, _) => {
                found.push(Challenge { scheme: word.to_ascii_lowercase(), parameters: Vec::new() });
                rest = after;
            }
        }
    }
}

/// The letters of a token at the beginning, and what follows.
fn token(text: &str) -> (&str, &str) {
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~/".contains(&byte);
    let end = text.bytes().position(|byte| !is_letter(byte)).unwrap_or(text.len());
    text.split_at(end)
}

fn parameter(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let (value, after) = token(text);
        return Some((value.to_owned(), after));
    };
    let mut value = String::new();
    let mut letters = quoted.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(letters.next()?.1),
            _ => value.push(letter),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_registries_send_is_read() {
        let hub = challenges(
            r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/a:pull,push""#,
        );
        assert_eq!(hub.len(), 1);
        assert_eq!(hub[0].get("realm"), Some("https://auth.docker.io/token"));
        assert_eq!(hub[0].get("scope"), Some("repository:library/a:pull,push"));
        let two = challenges(
            r#"Negotiate, basic realm = "a \"quoted\" realm, with = signs" , charset=UTF-8, Bearer realm=x"#,
        );
        assert_eq!(two.iter().map(|one| one.scheme.as_str()).collect::<Vec<_>>(), ["negotiate", "basic", "bearer"]);
        assert_eq!(two[1].get("realm"), Some(r#"a "quoted" realm, with = signs"#));
        assert_eq!(two[1].get("charset"), Some("UTF-8"));
        assert_eq!(two[2].get("realm"), Some("x"));
    }

    #[test]
    fn nonsense_is_read_without_harm() {
        for text in
            ["", ",,,", "=", "a=b", "Bearer realm=\"open", "Bearer realm=\"x\\", "\"", "Bearer =", "Bearer é", "é"]
        {
            for challenge in challenges(text) {
                assert!(challenge.get("realm").is_none(), "{text}");
            }
        }
        let valid = r#"Bearer realm="https://é.example/\"t",scope=x, Basic realm="y""#;
        for end in (0..valid.len()).filter(|end| valid.is_char_boundary(*end)) {
            assert!(challenges(&valid[..end]).len() <= 3);
            assert!(challenges(&valid[end..]).len() <= 64);
        }
    }
}
