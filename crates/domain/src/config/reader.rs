//! A typed reader over the spanned TOML tree. It never stops at the first problem: a key that is wrong is reported with
//! its place and read as absent, and the caller goes on with a default that no one will see.

use super::{
    keys::Keys,
    problems::{Problem, Problems},
};
use crate::{Name, near, secret::SecretRef};
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    str::FromStr,
    time::Duration,
};
use toml::de::{DeTable, DeValue};

/// Whether a problem can be the mere consequence of a syntax error elsewhere.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Syntax,
    /// Wrong by itself, whatever else the file holds.
    Own,
    /// Something is missing or refers to something missing, which a syntax error may have swallowed.
    Absence,
}

struct Found {
    at: usize,
    kind: Kind,
    key: String,
    message: String,
}

/// Collects the problems of one file, and remembers where each key stood.
pub(super) struct Reader<'t> {
    text: &'t str,
    found: RefCell<Vec<Found>>,
    places: RefCell<BTreeMap<String, usize>>,
}

/// A value with its place.
#[derive(Clone)]
pub(super) struct Node<'a> {
    reader: &'a Reader<'a>,
    value: &'a DeValue<'a>,
    at: usize,
    path: String,
}

/// A table with its place.
pub(super) struct Section<'a> {
    pub(super) reader: &'a Reader<'a>,
    table: &'a DeTable<'a>,
    at: usize,
    pub(super) path: String,
}

impl<'t> Reader<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, found: RefCell::default(), places: RefCell::default() }
    }

    fn add(&self, at: usize, kind: Kind, key: &str, message: impl Into<String>) {
        self.found.borrow_mut().push(Found { at, kind, key: key.to_owned(), message: message.into() });
    }

    pub(super) fn syntax(&self, error: &toml::de::Error) {
        let at = error.span().map_or(0, |span| span.start);
        self.add(at, Kind::Syntax, "", format!("not TOML: {}", error.message().replace('\n', ", ")));
    }

    /// Reports a problem of a key that was read, at its place or at that of the nearest table around it.
    pub(super) fn problem(&self, key: &str, message: impl Into<String>) {
        self.add(self.place(key), Kind::Own, key, message);
    }

    /// The same for something that is missing.
    pub(super) fn absence(&self, key: &str, message: impl Into<String>) {
        self.add(self.place(key), Kind::Absence, key, message);
    }

    fn place(&self, key: &str) -> usize {
        let places = self.places.borrow();
        let mut key = key;
        loop {
            match (places.get(key), key.rfind(['.', '['])) {
                (Some(at), _) => return *at,
                (None, Some(end)) => key = &key[..end],
                (None, None) => return 0,
            }
        }
    }

    fn remember(&self, path: &str, at: usize) {
        self.places.borrow_mut().insert(path.to_owned(), at);
    }

    /// The path of a key from its parts.
    pub(super) fn key(&self, parts: &[&str]) -> String {
        parts.iter().map(|part| key_text(part)).collect::<Vec<_>>().join(".")
    }

    /// The path of a key in the table `path`.
    pub(super) fn key_below(&self, path: &str, key: &str) -> String {
        format!("{path}.{}", key_text(key))
    }

    /// The path of the item of the array `path` whose text is `text`; the array's if none is.
    pub(super) fn item(&self, path: &str, text: &str) -> String {
        let quoted = [format!("\"{text}\""), format!("'{text}'")];
        let written = |at: &usize| quoted.iter().any(|quoted| self.text[*at..].starts_with(quoted));
        let places = self.places.borrow();
        let items =
            (0..).map(|index| format!("{path}[{index}]")).map_while(|item| places.get(&item).map(|at| (item, at)));
        items.into_iter().find(|(_, at)| written(at)).map_or_else(|| path.to_owned(), |(item, _)| item)
    }

    /// The line of a key that was read, to point from one to another.
    pub(super) fn line_of(&self, key: &str) -> usize {
        self.position(self.place(key)).0
    }

    fn position(&self, at: usize) -> (usize, usize) {
        let before = &self.text[..self.text.floor_char_boundary(at.min(self.text.len()))];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }

    /// All problems in the order of the file, or none.
    pub(super) fn finish(self, file: &str) -> Result<(), Problems> {
        let mut found = self.found.take();
        found.sort_by_key(|found| (found.at, found.kind as u8));
        let line = |found: &Found| self.position(found.at).0;
        let broken: BTreeSet<usize> = found.iter().filter(|f| f.kind == Kind::Syntax).map(line).collect();
        let mut told = BTreeSet::new();
        let list: Vec<Problem> = found
            .iter()
            .filter(|f| match f.kind {
                Kind::Syntax => told.insert(line(f)),
                Kind::Own => !broken.contains(&line(f)),
                Kind::Absence => broken.is_empty(),
            })
            .map(|f| {
                let (line, column) = self.position(f.at);
                Problem { line, column, key: f.key.clone(), message: f.message.clone() }
            })
            .collect();
        if list.is_empty() { Ok(()) } else { Err(Problems { file: file.to_owned(), list }) }
    }
}

/// A key as it is written in a path: quoted when it is no bare key.
fn key_text(key: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if !key.is_empty() && key.chars().all(bare) { key.to_owned() } else { format!("{key:?}") }
}

impl<'a> Node<'a> {
    pub(super) fn problem(&self, message: impl Into<String>) {
        self.reader.add(self.at, Kind::Own, &self.path, message);
    }

    fn wrong_type(&self, wanted: &str) {
        // A header that a syntax error swallowed makes tables out of arrays.
        let kind = if self.value.is_table() { Kind::Absence } else { Kind::Own };
        let message = format!("must be {wanted}, not {}", type_name(self.value));
        self.reader.add(self.at, kind, &self.path, message);
    }

    pub(super) fn value(&self) -> &'a DeValue<'a> {
        self.value
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn reader(&self) -> &'a Reader<'a> {
        self.reader
    }

    pub(super) fn text(&self) -> Option<&'a str> {
        let text = self.value.as_str();
        if text.is_none() {
            self.wrong_type("a string");
        }
        text
    }

    /// A string, or a number or boolean as it is written: what an environment variable may be.
    fn scalar(&self) -> Option<String> {
        match self.value {
            DeValue::String(text) => Some(text.to_string()),
            DeValue::Integer(number) if number.radix() == 10 => Some(number.as_str().to_owned()),
            DeValue::Float(number) => Some(number.as_str().to_owned()),
            DeValue::Boolean(value) => Some(value.to_string()),
            _ => {
                self.wrong_type("a string");
                None
            }
        }
    }

    pub(super) fn parsed<T>(&self) -> Option<T>
    where
        T: FromStr<Err: std::fmt::Display>,
    {
        self.text()?.parse().map_err(|error: T::Err| self.problem(error.to_string())).ok()
    }

    pub(super) fn number(&self) -> Option<f64> {
        let number = match self.value {
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix()).ok().map(|n| n as f64),
            DeValue::Float(number) => number.as_str().parse::<f64>().ok(),
            _ => {
                self.wrong_type("a number");
                return None;
            }
        };
        let number = number.filter(|number| number.is_finite());
        if number.is_none() {
            self.problem("must be a finite number");
        }
        number
    }

    pub(super) fn items(&self) -> Vec<Node<'a>> {
        let Some(array) = self.value.as_array() else {
            self.wrong_type("an array");
            return Vec::new();
        };
        let item = |(index, item): (usize, &'a toml::Spanned<DeValue<'a>>)| {
            let path = format!("{}[{index}]", self.path);
            self.reader.remember(&path, item.span().start);
            Node { reader: self.reader, value: item.get_ref(), at: item.span().start, path }
        };
        array.iter().enumerate().map(item).collect()
    }

    pub(super) fn texts(&self) -> Vec<String> {
        self.items().iter().filter_map(|item| item.text().map(str::to_owned)).collect()
    }

    /// The table in it, its keys compared with those that are known.
    pub(super) fn section(&self, known: &[&Keys]) -> Option<Section<'a>> {
        let section = self.open()?;
        section.only(known);
        Some(section)
    }

    /// The table in it, its keys not yet compared with any.
    pub(super) fn open(&self) -> Option<Section<'a>> {
        let Some(table) = self.value.as_table() else {
            self.wrong_type("a table");
            return None;
        };
        Some(Section { reader: self.reader, table, at: self.at, path: self.path.clone() })
    }

    /// The file as a whole.
    pub(super) fn root(reader: &'a Reader<'a>, table: &'a DeTable<'a>) -> Section<'a> {
        Section { reader, table, at: 0, path: String::new() }
    }
}

impl<'a> Section<'a> {
    /// Reports every key that is not among the known ones.
    pub(super) fn only(&self, known: &[&Keys]) {
        let keys: Vec<&str> = known.iter().flat_map(|keys| keys.keys.iter().copied()).collect();
        for (key, _) in self.table.iter().filter(|(key, _)| !keys.contains(&key.get_ref().as_ref())) {
            let near = near::matches(key.get_ref(), keys.iter().copied());
            let known: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
            let message = format!("unknown key{}", near::sentence(&near, &known));
            self.reader.add(key.span().start, Kind::Own, &self.key(key.get_ref()), message);
        }
    }

    pub(super) fn key(&self, key: &str) -> String {
        if self.path.is_empty() { key_text(key) } else { format!("{}.{}", self.path, key_text(key)) }
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    pub(super) fn get(&self, key: &str) -> Option<Node<'a>> {
        let (found, value) = self.table.get_key_value(key)?;
        Some(self.node(found.span().start, key, value.get_ref()))
    }

    fn node(&self, at: usize, key: &str, value: &'a DeValue<'a>) -> Node<'a> {
        let path = self.key(key);
        self.reader.remember(&path, at);
        Node { reader: self.reader, value, at, path }
    }

    /// Reports a key of this section, present or not.
    pub(super) fn problem(&self, key: &str, message: impl Into<String>) {
        let at = self.table.get_key_value(key).map_or(self.at, |(key, _)| key.span().start);
        self.reader.add(at, Kind::Own, &self.key(key), message);
    }

    /// Reports a key that is needed and not there.
    pub(super) fn missing(&self, key: &str, message: impl Into<String>) {
        self.reader.add(self.at, Kind::Absence, &self.key(key), message);
    }

    /// Every entry with its node, keys as they are.
    pub(super) fn entries(&self) -> Vec<(String, Node<'a>)> {
        let entries = self.table.iter();
        entries
            .map(|(key, value)| {
                (key.get_ref().to_string(), self.node(key.span().start, key.get_ref(), value.get_ref()))
            })
            .collect()
    }

    pub(super) fn text(&self, key: &str) -> Option<String> {
        Some(self.get(key)?.text()?.to_owned())
    }

    /// A string that is not empty.
    pub(super) fn filled(&self, key: &str) -> Option<String> {
        let text = self.text(key)?;
        if text.is_empty() {
            self.problem(key, "must not be empty");
            return None;
        }
        Some(text)
    }

    /// A string that must be there; `example` is what the message proposes.
    pub(super) fn needed(&self, key: &str, example: &str) -> String {
        if !self.has(key) {
            self.missing(key, format!("is missing; write {key} = {example}"));
        }
        self.filled(key).unwrap_or_default()
    }

    pub(super) fn parsed<T>(&self, key: &str) -> Option<T>
    where
        T: FromStr<Err: std::fmt::Display>,
    {
        self.get(key)?.parsed()
    }

    pub(super) fn texts(&self, key: &str) -> Vec<String> {
        self.get(key).map(|node| node.texts()).unwrap_or_default()
    }

    /// A command: an array with at least one string.
    pub(super) fn command(&self, key: &str) -> Option<Vec<String>> {
        let words = self.texts(key);
        if self.has(key) && words.first().is_none_or(String::is_empty) {
            self.problem(
                key,
                format!("must be a command as an array of words, for example {key} = [\"make\", \"dist\"]"),
            );
        }
        self.has(key).then_some(words)
    }

    pub(super) fn names(&self, key: &str) -> Vec<Name> {
        let items = self.get(key).map(|node| node.items()).unwrap_or_default();
        let mut names: Vec<Name> = Vec::new();
        for item in items {
            match item.parsed::<Name>() {
                Some(name) if names.contains(&name) => item.problem(format!("{name} is named twice")),
                Some(name) => names.push(name),
                None => {}
            }
        }
        names
    }

    /// A table of strings (numbers and booleans are taken as they are written).
    pub(super) fn text_map(&self, key: &str) -> BTreeMap<String, String> {
        let Some(table) = self.get(key).and_then(|node| node.open()) else { return BTreeMap::new() };
        table.entries().into_iter().filter_map(|(key, node)| Some((key, node.scalar()?))).collect()
    }

    /// A table of references to secrets.
    pub(super) fn secrets(&self, key: &str) -> BTreeMap<String, SecretRef> {
        let Some(table) = self.get(key).and_then(|node| node.open()) else { return BTreeMap::new() };
        table.entries().into_iter().filter_map(|(key, node)| Some((key, node.parsed()?))).collect()
    }

    pub(super) fn boolean(&self, key: &str, default: bool) -> bool {
        let Some(node) = self.get(key) else { return default };
        node.value.as_bool().unwrap_or_else(|| {
            node.wrong_type("true or false");
            default
        })
    }

    /// A whole number from `least` to `most`.
    pub(super) fn integer(&self, key: &str, least: u64, most: u64) -> Option<u64> {
        let node = self.get(key)?;
        let DeValue::Integer(number) = node.value else {
            node.wrong_type("a whole number");
            return None;
        };
        let number = u64::from_str_radix(number.as_str(), number.radix()).ok().filter(|n| (least..=most).contains(n));
        if number.is_none() && most == u64::MAX {
            node.problem(format!("must be at least {least}"));
        } else if number.is_none() {
            node.problem(format!("must be from {least} to {most}"));
        }
        number
    }

    pub(super) fn small(&self, key: &str, least: u32, default: u32) -> u32 {
        self.integer(key, u64::from(least), u64::from(u32::MAX)).and_then(|n| u32::try_from(n).ok()).unwrap_or(default)
    }

    /// A TCP port that must be there.
    pub(super) fn port(&self, key: &str) -> u16 {
        if !self.has(key) {
            self.missing(key, format!("is missing; write {key} = 8080, the port to listen on"));
        }
        self.integer(key, 1, 65_535).and_then(|n| u16::try_from(n).ok()).unwrap_or_default()
    }

    pub(super) fn number(&self, key: &str) -> Option<f64> {
        self.get(key)?.number()
    }

    pub(super) fn duration_option(&self, key: &str) -> Option<Duration> {
        let node = self.get(key)?;
        let duration = super::duration::parse(node.text()?);
        if duration.is_none() {
            node.problem("is no duration: write 500ms, 30s, 5m, 2h or 7d");
        }
        duration
    }

    pub(super) fn duration(&self, key: &str, default: Duration) -> Duration {
        self.duration_option(key).unwrap_or(default)
    }

    /// A duration that must not be zero.
    pub(super) fn span(&self, key: &str, default: Duration) -> Duration {
        let duration = self.duration(key, default);
        if duration.is_zero() {
            self.problem(key, "must be longer than nothing");
        }
        duration
    }

    /// One of a few words.
    pub(super) fn one_of<T: Copy>(&self, key: &str, words: &[(&str, T)]) -> Option<T> {
        self.get(key)?.one_of(words)
    }

    pub(super) fn section(&self, key: &str, known: &[&Keys]) -> Option<Section<'a>> {
        self.get(key)?.section(known)
    }

    /// The tables of an array.
    pub(super) fn each(&self, key: &str) -> Vec<Section<'a>> {
        let items = self.get(key).map(|node| node.items()).unwrap_or_default();
        items.iter().filter_map(Node::open).collect()
    }

    /// The entries of a table whose keys are names.
    pub(super) fn named(&self, key: &str) -> Vec<(Name, Node<'a>)> {
        let Some(table) = self.get(key).and_then(|node| node.open()) else { return Vec::new() };
        let name = |(key, node): (String, Node<'a>)| match Name::new(key) {
            Ok(name) => Some((name, node)),
            Err(error) => {
                node.problem(error.to_string());
                None
            }
        };
        table.entries().into_iter().filter_map(name).collect()
    }
}

impl Node<'_> {
    /// One of a few words.
    pub(super) fn one_of<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        let text = self.text()?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            let known: Vec<String> = words.iter().map(|(word, _)| (*word).to_owned()).collect();
            let near = near::matches(text, words.iter().map(|(word, _)| *word));
            self.problem(format!("there is no {text:?}{}", near::sentence(&near, &known)));
        }
        found
    }
}

fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}
