//! What a Dockerfile and Kubernetes manifests say about a service.

/// What the last stage of a Dockerfile says.
#[derive(Debug, Default)]
pub(super) struct Dockerfile {
    pub(super) port: Option<(u16, &'static str)>,
    pub(super) health: Option<String>,
    pub(super) user: Option<String>,
    pub(super) starts: bool,
}

/// Reads instructions as far as they matter; what is not understood is left out.
pub(super) fn read(text: &str) -> Dockerfile {
    let mut found = Dockerfile::default();
    let mut variables: Vec<(String, String)> = Vec::new();
    let mut exposed = None;
    let mut command_port = None;
    let mut environment_port = None;
    for line in logical_lines(text) {
        let (instruction, rest) = line.split_once(char::is_whitespace).unwrap_or((&line, ""));
        let rest = rest.trim();
        match instruction.to_ascii_uppercase().as_str() {
            "FROM" => {
                found = Dockerfile::default();
                (exposed, command_port, environment_port) = (None, None, None);
            }
            "ARG" | "ENV" => {
                for (key, value) in assignments(rest) {
                    if key == "PORT" && instruction.eq_ignore_ascii_case("ENV") {
                        environment_port = substitute(&value, &variables).parse().ok();
                    }
                    variables.push((key, value));
                }
            }
            "EXPOSE" => {
                exposed = exposed
                    .or_else(|| port_of(&substitute(rest.split_whitespace().next().unwrap_or_default(), &variables)))
            }
            "USER" => found.user = Some(substitute(rest, &variables)),
            "ENTRYPOINT" | "CMD" => {
                found.starts = true;
                command_port = port_in_command(&substitute(rest, &variables)).or(command_port);
            }
            "HEALTHCHECK" => found.health = path_of_url(rest),
            _ => {}
        }
    }
    found.port = exposed
        .map(|port| (port, "EXPOSE"))
        .or_else(|| command_port.map(|port| (port, "its command")))
        .or_else(|| environment_port.map(|port| (port, "ENV PORT")));
    found
}

/// Lines with continuations joined, without comments.
fn logical_lines(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut open = false;
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (body, continues) = line.strip_suffix('\\').map_or((line, false), |body| (body.trim_end(), true));
        match lines.last_mut() {
            Some(last) if open => {
                last.push(' ');
                last.push_str(body);
            }
            _ => lines.push(body.to_owned()),
        }
        open = continues;
    }
    lines
}

/// `A=1 B="2"` and the old `A 1`.
fn assignments(rest: &str) -> Vec<(String, String)> {
    if let Some((key, value)) = rest.split_once(char::is_whitespace)
        && !key.contains('=')
    {
        return vec![(key.to_owned(), value.trim().to_owned())];
    }
    let pairs = rest.split_whitespace().filter_map(|word| word.split_once('='));
    pairs.map(|(key, value)| (key.to_owned(), value.trim_matches(['"', '\'']).to_owned())).collect()
}

fn substitute(text: &str, variables: &[(String, String)]) -> String {
    let mut text = text.to_owned();
    for (key, value) in variables.iter().rev().filter(|(key, _)| !key.is_empty()) {
        text = text.replace(&format!("${{{key}}}"), value).replace(&format!("${key}"), value);
    }
    text
}

fn port_of(text: &str) -> Option<u16> {
    let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok().filter(|port| *port != 0)
}

/// `--port 8000`, `--port=8000`, `-p 8000`, `--bind 0.0.0.0:8000`, `-b :8000`, in shell or JSON form.
pub(super) fn port_in_command(command: &str) -> Option<u16> {
    let spaced = command.replace(['[', ']', ',', '"', '\'', '='], " ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    words.windows(2).find_map(|pair| match pair[0] {
        "--port" | "-p" | "--server.port" | "--http-port" => port_of(pair[1]),
        "--bind" | "-b" | "--listen" | "--addr" | "--address" => port_of(pair[1].rsplit(':').next()?),
        "runserver" => port_of(pair[1].rsplit(':').next()?),
        _ => None,
    })
}

/// The path of the first `http://host:port/path` in a text.
pub(super) fn path_of_url(text: &str) -> Option<String> {
    let after = text.split("http://").nth(1)?;
    let end = after
        .find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ')' | ',' | ']' | ';' | '|'))
        .unwrap_or(after.len());
    let path = &after[after[..end].find('/')?..end];
    is_plain_path(path).then(|| path.to_owned())
}

/// The path of a readiness (else liveness) probe in Kubernetes manifests.
pub(super) fn probe_path(text: &str) -> Option<String> {
    let probe = |name: &str| {
        let after = text.split(name).nth(1)?;
        let line = after.lines().take(8).find_map(|line| line.trim().strip_prefix("path:"))?;
        let path = line.trim().trim_matches(['"', '\'']);
        is_plain_path(path).then(|| path.to_owned())
    };
    probe("readinessProbe:").or_else(|| probe("livenessProbe:"))
}

pub(super) fn is_plain_path(path: &str) -> bool {
    path.starts_with('/') && path.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '/' | '-' | '_' | '.'))
}
