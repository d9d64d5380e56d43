//! The services of a compose file, by a reader of just that much YAML: mappings by indentation, scalars, and lists.

use super::{Repository, folder_of, is_aside, is_compose};

/// A service of a compose file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Service {
    pub(super) name: String,
    /// The compose file.
    pub(super) file: String,
    /// Folder of the build context, relative to the repository.
    pub(super) context: Option<String>,
    /// Dockerfile, relative to the context.
    pub(super) dockerfile: Option<String>,
    pub(super) image: Option<String>,
    /// Port on the host and port inside.
    pub(super) ports: Vec<(Option<u16>, u16)>,
}

/// A line: its depth, its key, and what stands behind the colon. A list item has the key `-`.
struct Line<'a> {
    depth: usize,
    key: &'a str,
    value: &'a str,
}

/// The services of the first compose file that has any.
pub(super) fn services(repository: &Repository<'_>) -> Vec<Service> {
    let mut files: Vec<(&str, &str)> = repository
        .files
        .iter()
        .filter(|(path, _)| is_compose(path) && !is_aside(path))
        .filter_map(|(path, text)| Some((*path, (*text)?)))
        .collect();
    files.sort_by_key(|(path, _)| path.matches('/').count());
    files.into_iter().map(|(path, text)| read(path, text)).find(|services| !services.is_empty()).unwrap_or_default()
}

fn read(file: &str, text: &str) -> Vec<Service> {
    let lines: Vec<Line<'_>> = text.lines().filter_map(line).collect();
    let Some(start) = lines.iter().position(|line| line.depth == 0 && line.key == "services") else {
        return Vec::new();
    };
    let body: Vec<&Line<'_>> = lines[start + 1..].iter().take_while(|line| line.depth > 0).collect();
    let Some(depth) = body.first().map(|line| line.depth) else { return Vec::new() };
    let mut services: Vec<Service> = Vec::new();
    // The keys that lead to the current line, with their depths.
    let mut way: Vec<(usize, &str)> = Vec::new();
    for line in body {
        if line.depth == depth && line.key != "-" {
            services.push(Service { name: line.key.to_owned(), file: file.to_owned(), ..Service::default() });
            way.clear();
            continue;
        }
        way.retain(|(depth, _)| *depth < line.depth || (line.key == "-" && *depth == line.depth));
        let keys: Vec<&str> = way.iter().map(|(_, key)| *key).chain((line.key != "-").then_some(line.key)).collect();
        if let Some(service) = services.last_mut() {
            note(service, &keys, line.value);
        }
        if line.key != "-" {
            way.push((line.depth, line.key));
        }
    }
    services
}

fn note(service: &mut Service, keys: &[&str], value: &str) {
    let folder = |value: &str| inside(folder_of(&service.file), value);
    match keys {
        ["build"] if !value.is_empty() => service.context = folder(value),
        ["build", "context"] => service.context = folder(value),
        ["build", "dockerfile"] if !value.starts_with('/') && !value.contains("..") => {
            service.dockerfile = Some(value.to_owned())
        }
        ["image"] => service.image = Some(value.to_owned()),
        ["ports"] => service.ports.extend(ports(value)),
        _ => {}
    }
}

/// A folder relative to another, if it stays inside the repository.
fn inside(base: &str, path: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in base.split('/').chain(path.split('/')).filter(|part| !matches!(*part, "" | ".")) {
        if part == ".." {
            parts.pop()?;
        } else {
            parts.push(part);
        }
    }
    (!path.starts_with(['/', '$', '~'])).then(|| if parts.is_empty() { ".".to_owned() } else { parts.join("/") })
}

/// `8080:80`, `127.0.0.1:8080:80/tcp`, `80`, `${PORT:-8080}:80`, and lists of them in brackets.
fn ports(value: &str) -> Vec<(Option<u16>, u16)> {
    let number = |text: &str| {
        let text = text.trim_end_matches('}').rsplit(":-").next().unwrap_or_default();
        text.split('/').next().unwrap_or_default().trim_start_matches('-').parse::<u16>().ok()
    };
    let one = |text: &str| {
        let text = text.trim().trim_matches(['"', '\'']);
        let at = text.rfind(':').filter(|at| !text[*at..].starts_with(":-"));
        match at {
            Some(at) => Some((number(text[..at].rsplit(':').next().unwrap_or_default()), number(&text[at + 1..])?)),
            None => Some((None, number(text)?)),
        }
    };
    value.trim_matches(['[', ']']).split(',').filter_map(one).collect()
}

fn line(text: &str) -> Option<Line<'_>> {
    let trimmed = text.trim_start_matches(' ');
    let depth = text.len() - trimmed.len();
    let trimmed = trimmed.split(" #").next().unwrap_or_default().trim_end();
    if trimmed.is_empty() || trimmed.starts_with('#') {
        return None;
    }
    if let Some(item) = trimmed.strip_prefix('-') {
        return Some(Line { depth, key: "-", value: item.trim() });
    }
    let (key, value) = trimmed.split_once(':')?;
    Some(Line { depth, key: key.trim().trim_matches(['"', '\'']), value: value.trim().trim_matches(['"', '\'']) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_with_their_builds_and_ports() {
        let text = "# shop\nservices:\n  api:\n    build: ./api\n    ports:\n      - \"8080:8000\"\n  web:\n    build:\n      context: web\n      dockerfile: Dockerfile.prod\n    ports: [\"127.0.0.1:3000:3000/tcp\"]\n  db:\n    image: postgres:16 # not ours\n    ports:\n    - 5432\nvolumes:\n  x:\n";
        let services = read("compose.yaml", text);
        let lines: Vec<String> = services
            .iter()
            .map(|s| format!("{} {:?} {:?} {:?} {:?}", s.name, s.context, s.dockerfile, s.image, s.ports))
            .collect();
        expect_test::expect![[r#"
            api Some("api") None None [(Some(8080), 8000)]
            web Some("web") Some("Dockerfile.prod") None [(Some(3000), 3000)]
            db None None Some("postgres:16") [(None, 5432)]"#]]
        .assert_eq(&lines.join("\n"));
        assert_eq!(ports("${PORT:-8080}:80"), [(Some(8080), 80)]);
        assert_eq!(inside("deploy", "../api"), Some("api".to_owned()));
        assert_eq!(inside(".", "../api"), None);
    }
}
