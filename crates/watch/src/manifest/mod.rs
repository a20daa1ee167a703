//! Manifests: the bytes of one file to the model's objects. No file is opened here.
//!
//! ```text
//! bytes ──documents──> JSON ── head ──> wire ──convert──> Object
//!                  └─> YAML ─> Value ─┘
//! ```
//!
//! A file is cut into documents before anything is parsed ([`document`]). JSON is read straight
//! into the slim types of [`wire`]; YAML by way of a [`Value`] for each object, as Kubernetes'
//! own tools go by way of JSON. Lists are taken item by item, so a bad item costs only itself, and
//! no more than one item of a YAML list is held at a time.

pub(crate) mod convert;
mod document;
mod head;
mod names;
mod time;
mod wire;
mod write;
mod yaml;

use crate::Severity;
pub(crate) use convert::Kind;
use convert::{Complaint, Context, Converted};
use document::{Document, count_lines, documents};
use head::Head;
use model::{Object, ObjectKey};
use names::Names;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::BTreeSet;
use std::time::SystemTime;
pub(crate) use time::moment;
use wire::OneMap;
pub use write::Snapshot;

/// What a caller wants to know beyond what routing needs. All of it is large in a large cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// What DNS needs in any case: headless Services, Namespaces, and the host names of endpoints.
    pub names: bool,
    /// The names of the pods behind endpoints.
    pub pod_names: bool,
    /// The labels of Services.
    pub labels: bool,
    /// Pods.
    pub pods: bool,
    /// Instead of all else: ServiceImports, as the Services of a cluster of their own, and the slices of
    /// their endpoints (`multicluster`).
    pub imports: bool,
}

impl Keep {
    /// Everything.
    pub const ALL: Keep = Keep { names: true, pod_names: true, labels: true, pods: true, imports: false };
}

/// Lists may hold lists, so deep.
const LIST_DEPTH_MAX: u32 = 3;

/// So many problems of one file are told one by one; the rest are counted.
const PROBLEMS_A_FILE_MAX: u32 = 100;

/// So many kinds that are not ours are told apart.
const KINDS_NOTICED_MAX: usize = 1000;

/// Shared words that nobody uses any more are looked for after so many single objects.
const OBJECTS_BETWEEN_FORGETTING: u32 = 4096;

/// Something that a file turned out to hold.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "nearly all are objects, and none lives long")]
pub(crate) enum Found {
    /// An object, and for a slice when what it tells of happened, where it says so.
    Object(Object, Option<SystemTime>),
    /// Something to tell the user.
    Problem { severity: Severity, document: u32, line: u32, object: Option<String>, what: String },
    /// An object that is there but cannot be read, and which one, where that could be made out.
    Lost(Option<ObjectKey>),
}

/// Reads manifests. It remembers shared words and which foreign kinds it has mentioned.
pub(crate) struct Reader {
    keep: Keep,
    names: Names,
    kinds_noticed: BTreeSet<String>,
    complaints: Vec<Complaint>,
    objects_since: u32,
}

impl Reader {
    pub(crate) fn new(keep: Keep) -> Reader {
        Reader {
            keep,
            names: Names::default(),
            kinds_noticed: BTreeSet::new(),
            complaints: Vec::new(),
            objects_since: 0,
        }
    }

    /// Reads one object of a known kind from its JSON.
    pub(crate) fn read_object(&mut self, kind: Kind, text: &str, found: &mut dyn FnMut(Found)) {
        let at = At { document: 0, line: 0, text };
        let body = Body::Json(text);
        File { reader: self, found, problems: 0 }.known(at, kind, body);
        self.objects_since = self.objects_since.wrapping_add(1);
        if self.objects_since.is_multiple_of(OBJECTS_BETWEEN_FORGETTING) {
            self.names.forget_unused();
        }
    }

    /// Reads one file's bytes and hands over all that it finds, in the file's order.
    pub(crate) fn read(&mut self, bytes: &[u8], found: &mut dyn FnMut(Found)) {
        let mut file = File { reader: self, found, problems: 0 };
        for document in documents(bytes) {
            file.document(&document);
        }
        file.finish();
        self.names.forget_unused();
    }
}

/// One file while it is read.
struct File<'f> {
    reader: &'f mut Reader,
    found: &'f mut dyn FnMut(Found),
    problems: u32,
}

/// Where in the file an object is.
#[derive(Clone, Copy)]
struct At<'t> {
    document: u32,
    /// The line on which `text` begins.
    line: u32,
    text: &'t str,
}

impl At<'_> {
    /// The line on which a part of the text begins.
    fn line_of(self, part: &str) -> u32 {
        let start = (part.as_ptr() as usize).saturating_sub(self.text.as_ptr() as usize);
        self.line + count_lines(self.text.as_bytes().get(..start).unwrap_or_default())
    }
}

/// An object that has not been read yet.
#[derive(Clone, Copy)]
enum Body<'t> {
    Json(&'t str),
    Value(&'t Value),
}

/// Why an object could not be read into its type, and on which of its lines.
struct Misfit {
    what: String,
    line: u32,
}

impl<'t> Body<'t> {
    fn read<T: Deserialize<'t>>(self) -> Result<T, Misfit> {
        // Reading again with the path of each field written down is slow, so only after a failure.
        match self {
            Body::Json(text) => serde_json::from_str(text).map_err(|error| {
                let mut reader = serde_json::Deserializer::from_str(text);
                let path =
                    serde_path_to_error::deserialize::<_, T>(&mut reader).err().map(|e| e.path().to_string());
                misfit(path, &error.to_string(), error.line())
            }),
            Body::Value(value) => T::deserialize(value).map_err(|error| {
                let path =
                    serde_path_to_error::deserialize::<_, T>(value).err().map(|e| e.path().to_string());
                misfit(path, &error.to_string(), 1)
            }),
        }
    }

    /// The items of a list, where there are any.
    fn items(self, head: &Head<'t>) -> Option<Vec<Body<'t>>> {
        match self {
            Body::Json(_) => {
                let items: Vec<&'t RawValue> = serde_json::from_str(head.items?.get()).ok()?;
                Some(items.into_iter().map(|item| Body::Json(item.get())).collect())
            }
            Body::Value(value) => Some(value.get("items")?.as_array()?.iter().map(Body::Value).collect()),
        }
    }

    fn head(self) -> Head<'t> {
        match self {
            // The text has been read once, so it is JSON, and a head takes any JSON.
            Body::Json(text) => serde_json::from_str(text).unwrap_or_default(),
            Body::Value(value) => Head::of_value(value),
        }
    }

    fn line(self, at: At<'_>) -> u32 {
        match self {
            Body::Json(text) => at.line_of(text),
            Body::Value(_) => at.line,
        }
    }
}

fn misfit(path: Option<String>, error: &str, line: usize) -> Misfit {
    let what = without_place(error);
    let what = match path.filter(|path| path != ".") {
        Some(path) => format!("{path}: {what}"),
        None => what.to_owned(),
    };
    Misfit { what, line: u32::try_from(line).unwrap_or(u32::MAX).max(1) }
}

/// A parser's message without its own idea of the line, which does not know about documents.
fn without_place(message: &str) -> &str {
    message.rfind(" at line ").and_then(|end| message.get(..end)).unwrap_or(message)
}

/// The kind that a list says its items have.
#[derive(Clone, Copy)]
struct Listed<'t> {
    api_version: &'t str,
    kind: &'t str,
}

impl File<'_> {
    fn document(&mut self, document: &Document<'_>) {
        let text = match std::str::from_utf8(document.text) {
            Ok(text) => text,
            Err(error) => {
                let before = document.text.get(..error.valid_up_to()).unwrap_or_default();
                let line = document.line + count_lines(before);
                self.problem(document.index, line, None, "not UTF-8 text".to_owned());
                (self.found)(Found::Lost(None));
                return;
            }
        };
        let at = At { document: document.index, line: document.line, text };
        if text.trim_start().starts_with(['{', '[']) && self.json(at) {
            return;
        }
        self.yaml(at);
    }

    /// Reads one JSON value after the other. False when not even the first is JSON: it may be YAML
    /// in its flow style.
    fn json(&mut self, at: At<'_>) -> bool {
        let mut rest = at.text.trim_start();
        while !rest.is_empty() {
            let mut stream = serde_json::Deserializer::from_str(rest).into_iter::<Head<'_>>();
            match stream.next() {
                None => break,
                Some(Ok(head)) => {
                    let (object, behind) = rest.split_at(stream.byte_offset());
                    self.object(at, head, Body::Json(object), None, 0);
                    rest = behind.trim_start();
                }
                Some(Err(error)) => {
                    if rest.len() == at.text.trim_start().len() && !looks_like_json(rest) {
                        return false;
                    }
                    let line = at.line_of(rest) + u32::try_from(error.line()).unwrap_or(1).saturating_sub(1);
                    self.problem(at.document, line, None, without_place(&error.to_string()).to_owned());
                    (self.found)(Found::Lost(None));
                    rest = behind_bad_json(rest);
                }
            }
        }
        true
    }

    /// Takes an object, or a list of them.
    fn object(&mut self, at: At<'_>, head: Head<'_>, body: Body<'_>, listed: Option<Listed<'_>>, depth: u32) {
        if let Some(other) = head.other {
            self.problem(at.document, body.line(at), None, format!("{other}, not an object"));
            (self.found)(Found::Lost(None));
            return;
        }
        let said =
            |text: &Option<wire::Text<'_>>| text.as_deref().filter(|t| !t.is_empty()).map(str::to_owned);
        let api_version = said(&head.api_version).or(listed.map(|listed| listed.api_version.to_owned()));
        let kind = said(&head.kind).or(listed.map(|listed| listed.kind.to_owned()));
        let (Some(api_version), Some(kind)) = (&api_version, &kind) else {
            let field = if kind.is_none() { "kind" } else { "apiVersion" };
            let object = said(&head.name).map(|name| format!("object {name}"));
            self.problem(at.document, body.line(at), object, format!("{field}: missing"));
            (self.found)(Found::Lost(None));
            return;
        };
        if let Some(item_kind) = kind.strip_suffix("List")
            && let Some(items) = body.items(&head)
        {
            let listed = Listed { api_version, kind: item_kind };
            self.items(at, items, (!item_kind.is_empty()).then_some(listed), depth);
            return;
        }
        if (&**api_version, &**kind) == ("v1", "List") {
            return;
        }
        let imports = self.reader.keep.imports;
        match Kind::of(api_version, kind) {
            Some(kind @ Kind::Import) if imports => self.known(at, kind, body),
            Some(kind @ Kind::Slice) => self.known(at, kind, body),
            // Who wants all the others is told of them.
            _ if imports => {}
            Some(kind) if kind != Kind::Import => self.known(at, kind, body),
            _ => self.foreign(at, api_version, kind, body),
        }
    }

    fn items(&mut self, at: At<'_>, items: Vec<Body<'_>>, listed: Option<Listed<'_>>, depth: u32) {
        if depth == LIST_DEPTH_MAX {
            let what = format!("lists within lists, more than {LIST_DEPTH_MAX} deep");
            self.problem(at.document, at.line, None, what);
            (self.found)(Found::Lost(None));
            return;
        }
        for item in items {
            self.object(at, item.head(), item, listed, depth + 1);
        }
    }

    /// Reads an object of a kind that we know.
    fn known(&mut self, at: At<'_>, kind: Kind, body: Body<'_>) {
        let mut complaints = std::mem::take(&mut self.reader.complaints);
        let mut trigger = None;
        let mut context = Context {
            keep: self.reader.keep,
            names: &mut self.reader.names,
            complaints: &mut complaints,
            trigger: &mut trigger,
        };
        let read = match kind {
            Kind::Service => read(body, |wire| context.service(wire), Object::Service),
            Kind::Import => read(body, |wire| context.import(wire), Object::Service),
            Kind::Slice => read(body, |wire| context.slice(wire), Object::Slice),
            Kind::Node => read(body, |wire| context.node(wire), Object::Node),
            Kind::Namespace => read(body, |wire| context.namespace(wire), Object::Namespace),
            Kind::Pod => read(body, |wire| context.pod(wire), Object::Pod),
            Kind::ServiceCidr => read(body, |wire| context.service_cidr(wire), Object::ServiceCidr),
        };
        // Who it is matters only to messages.
        let failed = read.is_err() || !complaints.is_empty();
        let head = if failed { body.head() } else { Head::default() };
        let name = head.name.as_deref().filter(|name| !name.is_empty());
        let namespace = head.namespace.as_deref().filter(|namespace| !namespace.is_empty());
        let describe = || kind.describe(namespace, name.unwrap_or("without a name"));
        if !complaints.is_empty() {
            let line = body.line(at);
            for Complaint { severity, what } in complaints.drain(..) {
                self.tell(severity, at.document, line, Some(describe()), what);
            }
        }
        self.reader.complaints = complaints;
        match read {
            Ok(object) => {
                if let Some(object) = object {
                    (self.found)(Found::Object(object, trigger));
                }
            }
            Err(Misfit { what, line }) => {
                let line = (body.line(at) + line).saturating_sub(1);
                self.problem(at.document, line, Some(describe()), format!("{what}; the object is left out"));
                (self.found)(Found::Lost(name.map(|name| kind.key(namespace, name))));
            }
        }
    }

    /// Passes over an object of a kind that is not ours, and says so once for each kind.
    fn foreign(&mut self, at: At<'_>, api_version: &str, name: &str, body: Body<'_>) {
        let noticed = &mut self.reader.kinds_noticed;
        let kind = format!("{name} of {api_version}");
        if noticed.len() < KINDS_NOTICED_MAX && !noticed.contains(&kind) {
            let what = match Kind::of(api_version, name) {
                None => format!("objects of kind {kind} are ignored (this notice comes once)"),
                // Not by whoever tells this.
                Some(_) => format!("objects of kind {kind} are read where `multicluster` asks for them"),
            };
            noticed.insert(kind);
            self.tell(Severity::Notice, at.document, body.line(at), None, what);
        }
    }

    fn problem(&mut self, document: u32, line: u32, object: Option<String>, what: String) {
        self.tell(Severity::Error, document, line, object, what);
    }

    fn tell(&mut self, severity: Severity, document: u32, line: u32, object: Option<String>, what: String) {
        self.problems += 1;
        if self.problems <= PROBLEMS_A_FILE_MAX {
            (self.found)(Found::Problem { severity, document, line, object, what });
        }
    }

    fn finish(&mut self) {
        let untold = self.problems.saturating_sub(PROBLEMS_A_FILE_MAX);
        if untold > 0 {
            let what = format!("{untold} more problems in this file");
            let severity = Severity::Error;
            (self.found)(Found::Problem { severity, document: 0, line: 0, object: None, what });
        }
    }
}

/// Reads an object into its type and that into the model's.
fn read<'t, W: Deserialize<'t>, T>(
    body: Body<'t>,
    convert: impl FnOnce(&W) -> Converted<T>,
    object: fn(T) -> Object,
) -> Result<Option<Object>, Misfit> {
    let OneMap(wire) = body.read::<OneMap<W>>()?;
    match convert(&wire) {
        Ok(converted) => Ok(converted.map(object)),
        Err(what) => Err(Misfit { what, line: 1 }),
    }
}

/// Whether a text that no parser likes was meant as JSON: it has a quoted key, or a bracket at most.
fn looks_like_json(text: &str) -> bool {
    text.trim_start_matches(['{', '[']).trim_start().starts_with('"')
}

/// Where JSON may go on after a value that cannot be read: at the next line that begins an object.
/// In indented JSON, and in JSON of one line each, only the outermost brace stands there.
fn behind_bad_json(text: &str) -> &str {
    text.find("\n{").and_then(|end| text.get(end + 1..)).unwrap_or_default()
}

/// Reads any bytes. Whatever they are, objects that come out make sense.
pub(crate) fn fuzz(bytes: &[u8]) {
    let mut reader = Reader::new(Keep::ALL);
    reader.read(bytes, &mut |found| match found {
        Found::Object(Object::Service(service), _) => {
            assert!(service.cluster_ips.len() <= 2);
            assert!(service.ports.iter().all(|port| port.port != 0 && port.node_port != Some(0)));
        }
        Found::Object(Object::Slice(slice), _) => {
            assert!(!slice.service.is_empty());
            assert!(slice.ports.iter().all(|port| port.port != 0));
            let family = |endpoint: &model::Endpoint| model::Family::of(endpoint.address);
            assert!(slice.endpoints.iter().all(|endpoint| family(endpoint) == slice.family));
        }
        Found::Problem { what, .. } => assert!(!what.is_empty()),
        Found::Object(..) | Found::Lost(_) => {}
    });
}

#[cfg(test)]
mod tests;
