//! One kind of object: listed, watched, listed again when it must be.
//!
//! ```text
//!            ┌──────── list ────────┐ whole: what it did not hold has gone
//!  start ──> │ streamed, or by page │ ──────────> watch from its version ─┐
//!            └──────────────────────┘ <── 410 ──        │    ^            │
//!                     ^   │ trouble                     └────┘ it ended, or broke
//!                     └───┘ (longer and longer waits)
//! ```
//!
//! Whatever breaks, what has been told stays told: only a list that came to its end takes away.

use super::http::{Answer, Client, Stop};
use super::hub::Hub;
use super::kind::Resource;
use super::known::Known;
use super::split::{Shape, Splitter, TooLarge};
use super::trouble::Trouble;
use crate::manifest::{Found, Reader};
use crate::{Batch, Keep, Problem, Severity};
use model::{Change, Object, ObjectKey, ServiceKind};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long we wait for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waits {
    /// An answer must begin within this.
    pub answer: Duration,
    /// A list that is being sent may pause for so long.
    pub list_silence: Duration,
    /// So long a watch may be silent. The API server sends a bookmark each minute; one that does not
    /// costs a question every so often, one that hangs for ever costs no more than this.
    pub watch_silence: Duration,
    /// The first wait after trouble.
    pub first: Duration,
    /// And the longest.
    pub longest: Duration,
}

impl Default for Waits {
    fn default() -> Waits {
        Waits {
            answer: Duration::from_secs(60),
            list_silence: Duration::from_secs(30),
            watch_silence: Duration::from_secs(180),
            first: Duration::from_millis(800),
            longest: Duration::from_secs(30),
        }
    }
}

/// We ask for watches of between one and two times this, so that nodes do not all come back at once.
const WATCH_S: u64 = 300;
/// So many objects a page, as kube-proxy asks for.
const PAGE: u32 = 500;
/// So many changes go into one batch of a list.
const CHANGES_A_BATCH: usize = 32;
/// How often we ask again, at last, for what is not there or not for us.
const WAIT_ABSENT: Duration = Duration::from_secs(600);
/// A watch that ended sooner than this is not opened again at once.
const WATCH_SHORT: Duration = Duration::from_secs(1);
/// Trouble that goes on is told again after this.
const TELL_AGAIN: Duration = Duration::from_secs(300);
/// What is read at once.
const BUFFER: usize = 32 << 10;

/// What comes of a list.
struct Page {
    version: String,
    next: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ListHead {
    metadata: ListMeta,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct ListMeta {
    resource_version: String,
    #[serde(rename = "continue")]
    next: String,
}

/// An event of a watch.
#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ObjectHead<'a> {
    #[serde(borrow)]
    metadata: ObjectMeta<'a>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct ObjectMeta<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    namespace: Cow<'a, str>,
    #[serde(borrow)]
    resource_version: Cow<'a, str>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Bookmark {
    metadata: BookmarkMeta,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct BookmarkMeta {
    annotations: BookmarkAnnotations,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct BookmarkAnnotations {
    #[serde(rename = "k8s.io/initial-events-end")]
    initial_events_end: String,
}

/// How a watch came to its end.
enum End {
    /// The server had had enough.
    Quiet,
    /// Nobody listens any more.
    Deaf,
}

/// What a kind's objects become.
struct Intake {
    number: usize,
    resource: Resource,
    reader: Reader,
    known: Known,
    hub: Arc<Hub>,
    batch: Batch,
    deaf: bool,
}

/// One kind of object on its way here.
pub(super) struct Watcher {
    client: Client,
    stop: Arc<Stop>,
    intake: Intake,
    /// Lists can be had as a stream.
    streams: bool,
    /// The field selector is understood.
    fields: bool,
    /// Where the watch goes on; nothing: with a list.
    version: Option<String>,
    /// A list has come to its end at some time.
    listed: bool,
    /// The server may be another than before, or its storage.
    doubt: bool,
    waits: Waits,
    wait: Duration,
    told: Option<(String, Instant)>,
    random: RandomState,
    drawn: u64,
}

impl Watcher {
    pub(super) fn new(
        number: usize,
        resource: Resource,
        keep: Keep,
        client: Client,
        stop: Arc<Stop>,
        hub: Arc<Hub>,
        waits: Waits,
    ) -> Watcher {
        let intake = Intake::new(number, resource, keep, hub);
        Watcher {
            client,
            stop,
            intake,
            streams: true,
            fields: true,
            version: None,
            listed: false,
            doubt: false,
            waits,
            wait: waits.first,
            told: None,
            random: RandomState::new(),
            drawn: 0,
        }
    }

    pub(super) fn run(mut self) {
        while !self.stop.is_stopped() && !self.intake.deaf {
            let begin = Instant::now();
            let version = self.version.clone();
            let outcome = match &version {
                None => self.list(),
                Some(version) if self.doubt => self.watch_if_past(version),
                Some(version) => self.watch(version),
            };
            match outcome {
                Ok(End::Deaf) | Err(Trouble::Stopped) => return,
                Ok(End::Quiet) => {
                    if version.is_some() && begin.elapsed() < WATCH_SHORT {
                        self.stop.sleep(WATCH_SHORT);
                    }
                }
                Err(trouble) => self.suffer(&trouble),
            }
        }
    }

    /// Decides what comes after trouble, and waits.
    fn suffer(&mut self, trouble: &Trouble) {
        self.intake.batch = Batch::default();
        self.doubt = true;
        // Its storage has forgotten or has been put back, or the version was never one.
        let useless = trouble.is_expired() || trouble.is_too_new() || trouble.is_invalid();
        if self.version.is_some() && useless {
            self.tell(Severity::Notice, &format!("{trouble}; listing anew"));
            self.version = None;
            // A server that tells all nodes so at once need not be asked by all at once.
            let wait = self.waits.first.mul_f64(0.5 + self.draw());
            self.stop.sleep(wait);
            return;
        }
        if matches!(trouble, Trouble::Nonsense(_)) {
            // It would come again where the watch went on.
            self.version = None;
        }
        let absent = trouble.is_missing() || trouble.is_forbidden();
        if absent && self.intake.resource.optional() {
            self.tell(Severity::Notice, &format!("{trouble}; going on without"));
            self.intake.hub.settle(self.intake.number);
            // A server that has just been started refuses everybody until it has read who may what.
            let wait = self.wait.mul_f64(0.5 + self.draw());
            self.wait = (self.wait * 2).min(WAIT_ABSENT);
            self.stop.sleep(wait);
            return;
        }
        let mut wait = self.wait.mul_f64(0.5 + self.draw());
        self.wait = (self.wait * 2).min(self.waits.longest);
        if let Some(asked) = trouble.retry_after() {
            wait = wait.max(asked.mul_f64(1.0 + self.draw()));
        }
        self.tell(Severity::Error, &format!("{trouble}; trying again"));
        self.stop.sleep(wait);
    }

    /// Things are well again.
    fn recover(&mut self) {
        recover(&mut self.intake, &mut self.told, &mut self.wait, self.waits.first);
    }

    /// Says what is wrong, once.
    fn tell(&mut self, severity: Severity, what: &str) {
        let news = self.told.as_ref().is_none_or(|(told, when)| told != what || when.elapsed() >= TELL_AGAIN);
        if news {
            self.told = Some((what.to_owned(), Instant::now()));
            let what = format!("{}: {what}", self.intake.resource.plural());
            self.intake.deaf |= !self.intake.hub.tell(severity, what);
        }
    }

    /// A number from 0 to 1 that other nodes do not draw.
    fn draw(&mut self) -> f64 {
        self.drawn += 1;
        let number = u32::try_from(self.random.hash_one(self.drawn) >> 32).unwrap_or(0);
        f64::from(number) / f64::from(u32::MAX)
    }

    /// Lists, by a stream where the server has that; the watch may go on from there at once.
    fn list(&mut self) -> Result<End, Trouble> {
        let outcome = if self.streams { self.list_by_stream() } else { self.list_by_pages() };
        match outcome {
            Err(trouble) if trouble.is_invalid() && self.fields && self.intake.resource.has_fields() => {
                // Older servers select Services by fewer fields; what is not ours is left out here.
                match self.streams {
                    true => self.streams = false,
                    false => self.fields = false,
                }
                self.list()
            }
            Err(trouble) if trouble.is_invalid() && self.streams => {
                self.streams = false;
                self.list()
            }
            outcome => outcome,
        }
    }

    fn list_by_stream(&mut self) -> Result<End, Trouble> {
        self.intake.known.begin_list();
        let target = self.target(
            "&watch=true&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan",
        );
        let followed = self.follow(&target, true);
        if let Err(trouble) = &followed
            && trouble.is_connection()
            && self.version.is_none()
        {
            // One that does not know what a streamed list is would never end it.
            self.streams = self.listed;
        }
        followed
    }

    fn watch(&mut self, version: &str) -> Result<End, Trouble> {
        let version = escape(version);
        let target = self.target(&format!("&watch=true&allowWatchBookmarks=true&resourceVersion={version}"));
        self.follow(&target, false)
    }

    /// A watch, unless the server's storage is older than what we know. It would take such a watch and
    /// be silent until its versions have come so far (seen with 1.36); what was lost would stay here.
    fn watch_if_past(&mut self, version: &str) -> Result<End, Trouble> {
        let now = self.version_now()?;
        self.doubt = false;
        let numbers = (version.parse::<u64>(), now.parse::<u64>());
        if matches!(numbers, (Ok(known), Ok(now)) if now < known) {
            let what = format!("the storage is at version {now}, and was at {version}; listing anew");
            self.tell(Severity::Notice, &what);
            self.version = None;
            return Ok(End::Quiet);
        }
        self.watch(version)
    }

    /// At which version the storage is.
    fn version_now(&mut self) -> Result<String, Trouble> {
        let target = self.target("&limit=1");
        let mut answer = self.client.get(&target, self.waits.answer)?;
        answer.set_patience(self.waits.list_silence)?;
        let mut splitter = Splitter::new(Shape::List);
        let mut buffer = vec![0; BUFFER];
        loop {
            let read = answer.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            splitter.push(buffer.get(..read).unwrap_or_default(), |_| {}).map_err(too_large)?;
        }
        Ok(list_head(&splitter)?.resource_version)
    }

    /// Reads a watch to its end.
    fn follow(&mut self, target: &str, lists: bool) -> Result<End, Trouble> {
        let timeout_s = WATCH_S + (self.draw() * WATCH_S as f64) as u64;
        let target = format!("{target}&timeoutSeconds={timeout_s}");
        let mut listing = lists;
        let mut version = self.version.take();
        let mut answer =
            self.client.get(&target, self.waits.answer).inspect_err(|_| self.version = version.clone())?;
        let Waits { list_silence, watch_silence, .. } = self.waits;
        let silence = if listing { list_silence } else { watch_silence };
        answer.set_patience(silence)?;
        let mut splitter = Splitter::new(Shape::Stream);
        let mut buffer = vec![0; BUFFER];
        let mut events = 0usize;
        let outcome = loop {
            let read = match answer.read(&mut buffer) {
                Ok(0) => break Ok(End::Quiet),
                Ok(read) => read,
                Err(trouble) => break Err(trouble),
            };
            let mut trouble = None;
            let mut ended = false;
            let intake = &mut self.intake;
            let split = splitter.push(buffer.get(..read).unwrap_or_default(), |text| {
                if trouble.is_none() {
                    match intake.event(text, listing, &mut version) {
                        Ok(is_end) => {
                            ended |= is_end;
                            listing &= !is_end;
                            events += 1;
                        }
                        Err(other) => trouble = Some(other),
                    }
                }
            });
            if ended {
                intake.end_list();
                if !intake.hub.settle(intake.number) {
                    return Ok(End::Deaf);
                }
                answer.set_patience(watch_silence)?;
                self.listed = true;
            }
            if events > 0 && !listing {
                recover(&mut self.intake, &mut self.told, &mut self.wait, self.waits.first);
            }
            if !self.intake.flush() {
                return Ok(End::Deaf);
            }
            if let Some(trouble) = trouble.or(split.err().map(too_large)) {
                break Err(trouble);
            }
        };
        drop(answer);
        match (&outcome, listing) {
            // A list that did not come to its end is none.
            (Ok(_), true) => {
                return Err(Trouble::Connection("list", std::io::ErrorKind::UnexpectedEof.into()));
            }
            (_, true) => {}
            (_, false) => self.version = version.filter(|version| !version.is_empty()),
        }
        if events > 0 || outcome.is_ok() {
            self.recover();
        }
        // One that was silent or broke after it had worked is asked again without much ado.
        outcome
    }

    fn list_by_pages(&mut self) -> Result<End, Trouble> {
        self.intake.known.begin_list();
        let mut next: Option<String> = None;
        let version = loop {
            let which = match &next {
                Some(next) => format!("&continue={}", escape(next)),
                // The first may come from the server's cache; later ones must not lead back in time.
                None if !self.listed => "&resourceVersion=0".to_owned(),
                None => String::new(),
            };
            let target = self.target(&format!("&limit={PAGE}{which}"));
            let page = self.page(&target)?;
            match page.next {
                Some(token) => next = Some(token),
                None => break page.version,
            }
        };
        if version.is_empty() {
            return Err(Trouble::Nonsense("a list without a resource version".into()));
        }
        self.intake.end_list();
        if !self.intake.flush() || !self.intake.hub.settle(self.intake.number) {
            return Ok(End::Deaf);
        }
        self.listed = true;
        self.version = Some(version);
        self.recover();
        Ok(End::Quiet)
    }

    fn page(&mut self, target: &str) -> Result<Page, Trouble> {
        let Watcher { client, intake, waits, .. } = self;
        let mut answer: Answer<'_> = client.get(target, waits.answer)?;
        answer.set_patience(waits.list_silence)?;
        let mut splitter = Splitter::new(Shape::List);
        let mut buffer = vec![0; BUFFER];
        loop {
            let read = answer.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            let bytes = buffer.get(..read).unwrap_or_default();
            splitter.push(bytes, |text| intake.listed(text)).map_err(too_large)?;
            if intake.batch.changes.len() >= CHANGES_A_BATCH && !intake.flush() {
                return Err(Trouble::Stopped);
            }
        }
        let ListMeta { resource_version: version, next } = list_head(&splitter)?;
        Ok(Page { version, next: Some(next).filter(|next| !next.is_empty()) })
    }

    fn target(&self, rest: &str) -> String {
        let Intake { resource, .. } = &self.intake;
        format!("{}?{}{rest}", resource.path(), resource.selectors(self.fields))
    }
}

/// What stands around a list's items.
fn list_head(splitter: &Splitter) -> Result<ListMeta, Trouble> {
    if !splitter.is_whole() {
        return Err(Trouble::Nonsense("a list that ends in the middle".into()));
    }
    let head: ListHead = serde_json::from_str(&splitter.around())
        .map_err(|error| Trouble::Nonsense(format!("not a list: {error}")))?;
    Ok(head.metadata)
}

/// Things are well again.
fn recover(intake: &mut Intake, told: &mut Option<(String, Instant)>, wait: &mut Duration, first: Duration) {
    *wait = first;
    if told.take().is_some() {
        let what = format!("{}: well again", intake.resource.plural());
        intake.deaf |= !intake.hub.tell(Severity::Notice, what);
    }
}

fn too_large(_: TooLarge) -> Trouble {
    Trouble::Nonsense("an object that is larger than any may be".into())
}

/// A value as it stands in a URL.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => escaped.push(byte.into()),
            byte => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

impl Intake {
    fn new(number: usize, resource: Resource, keep: Keep, hub: Arc<Hub>) -> Intake {
        let (reader, known, batch) = (Reader::new(keep), Known::default(), Batch::default());
        Intake { number, resource, reader, known, hub, batch, deaf: false }
    }

    /// Takes in an event; says whether with it a streamed list has come to its end.
    fn event(&mut self, text: &[u8], listing: bool, version: &mut Option<String>) -> Result<bool, Trouble> {
        let nonsense = |what: String| Trouble::Nonsense(format!("not an event of a watch: {what}"));
        let text = std::str::from_utf8(text).map_err(|error| nonsense(error.to_string()))?;
        let Event { kind, object } =
            serde_json::from_str(text).map_err(|error| nonsense(error.to_string()))?;
        let object = object.get();
        match &*kind {
            "ADDED" | "MODIFIED" => self.applied(object, listing && kind == "ADDED"),
            "DELETED" => {
                let head: ObjectHead<'_> =
                    serde_json::from_str(object).map_err(|error| nonsense(error.to_string()))?;
                if let Some(key) = self.key(&head.metadata) {
                    self.gone(key);
                }
            }
            "BOOKMARK" => {}
            "ERROR" => return Err(Trouble::of_status(500, object.as_bytes(), None)),
            other => return Err(nonsense(format!("type {other:?}"))),
        }
        // Of a list that is coming in, only the end's version counts.
        if !listing || kind == "BOOKMARK" {
            let head: ObjectHead<'_> =
                serde_json::from_str(object).map_err(|error| nonsense(error.to_string()))?;
            if !head.metadata.resource_version.is_empty() {
                *version = Some(head.metadata.resource_version.into_owned());
            }
        }
        if self.batch.changes.len() >= CHANGES_A_BATCH {
            self.flush();
        }
        let ends = |object| -> bool {
            let bookmark: Bookmark = serde_json::from_str(object).unwrap_or_default();
            bookmark.metadata.annotations.initial_events_end == "true"
        };
        Ok(listing && kind == "BOOKMARK" && ends(object))
    }

    /// Takes in an item of a list.
    fn listed(&mut self, text: &[u8]) {
        match std::str::from_utf8(text) {
            Ok(text) => self.applied(text, true),
            Err(_) => self.batch.problems.push(Problem::of_file(
                self.hub.server.clone(),
                format!("{}: an object that is not UTF-8 text", self.resource.plural()),
            )),
        }
    }

    /// Takes in an object that is there. What is wrong with one that was listed before was told then.
    fn applied(&mut self, text: &str, again: bool) {
        let Intake { reader, known, batch, hub, resource, .. } = self;
        let (mut object, mut lost) = (None, None);
        let mut problems = Vec::new();
        reader.read_object(resource.kind(), text, &mut |found| match found {
            Found::Object(it, trigger) => object = Some((it, trigger)),
            Found::Lost(key) => lost = Some(key),
            Found::Problem { severity, line: _, document: _, object, what } => {
                let file = hub.server.clone();
                problems.push(Problem { severity, file, document: 0, line: 0, object, what });
            }
        });
        let bad = problems.iter().any(|problem| problem.severity == Severity::Error);
        if let Some((Object::Service(service), _)) = &object
            && service.kind == ServiceKind::Headless
            && resource.has_fields()
        {
            // The server was not asked for it, or did not understand.
            object = None;
        }
        match (object, lost) {
            (Some((mut object, trigger)), _) => {
                let told = again && known.is_bad(&object.key());
                known.see(&mut object, bad);
                if let (Object::Slice(slice), Some(at)) = (&object, trigger) {
                    batch.triggers.push((slice.owner(), at));
                }
                batch.changes.push(Change::Apply(object));
                if !told {
                    batch.problems.extend(problems);
                }
            }
            (None, Some(key)) => {
                let told = again && key.as_ref().is_some_and(|key| known.is_bad(key));
                if let Some(key) = key {
                    known.refuse(key);
                }
                if !told {
                    batch.problems.extend(problems);
                }
            }
            // It is right, and not for us; it may have been before.
            (None, None) => {
                batch.problems.extend(problems);
                let head: ObjectHead<'_> = serde_json::from_str(text).unwrap_or_default();
                if let Some(key) = self.key(&head.metadata) {
                    self.gone(key);
                }
            }
        }
    }

    fn key(&self, metadata: &ObjectMeta<'_>) -> Option<ObjectKey> {
        let ObjectMeta { name, namespace, .. } = metadata;
        let namespace = Some(&**namespace).filter(|namespace| !namespace.is_empty());
        (!name.is_empty()).then(|| self.resource.kind().key(namespace, name))
    }

    fn gone(&mut self, key: ObjectKey) {
        if self.known.forget(&key) {
            self.batch.changes.push(Change::Delete(key));
        }
    }

    fn end_list(&mut self) {
        let Intake { known, batch, .. } = self;
        known.end_list(|key| batch.changes.push(Change::Delete(key)));
    }

    /// Hands over what there is; says whether anybody still listens.
    fn flush(&mut self) -> bool {
        let Batch { changes, problems, .. } = &self.batch;
        if !changes.is_empty() || !problems.is_empty() {
            let batch = std::mem::take(&mut self.batch);
            self.deaf |= !self.hub.hand_over(self.number, batch, self.known.bad());
        }
        !self.deaf
    }
}

/// Takes any bytes as a watch and as a list, of every kind.
pub(super) fn fuzz(bytes: &[u8]) {
    for resource in super::kind::resources("node", Keep::ALL) {
        let hub = Arc::new(Hub::new(1, std::path::Path::new("fuzz").into(), Box::new(|_| true)));
        let mut intake = Intake::new(0, resource, Keep::ALL, hub);
        let mut version = None;
        // What is too large or makes no sense is refused, and that is all that can happen.
        let _ = Splitter::new(Shape::Stream)
            .push(bytes, |text| drop(intake.event(text, version.is_none(), &mut version)));
        intake.known.begin_list();
        let _ = Splitter::new(Shape::List).push(bytes, |text| intake.listed(text));
        intake.end_list();
        assert!(intake.flush());
    }
}
