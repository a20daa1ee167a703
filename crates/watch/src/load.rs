//! Manifests from a directory or a file, once.

use crate::manifest::{Found, Keep, Reader};
use crate::tree::{Buffer, Entry, Root, walk};
use crate::{Error, Problem, Severity};
use model::{Object, ObjectKey};
use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::path::Path;
use std::sync::Arc;

/// All that manifests hold.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The objects, in the order of the files and within them.
    pub objects: Vec<Object>,
    /// What is wrong with them.
    pub problems: Vec<Problem>,
}

/// Loads a directory of manifests, and what is below it, or a single file.
pub fn load(path: &Path, keep: Keep) -> Result<Loaded, Error> {
    let mut objects = Vec::new();
    let problems = load_each(path, keep, |object| objects.push(object))?;
    Ok(Loaded { objects, problems })
}

/// Loads like [`load`], but hands over each object as it is read, so that they need not all be held
/// twice. Returns what is wrong with them.
pub fn load_each(path: &Path, keep: Keep, take: impl FnMut(Object)) -> Result<Vec<Problem>, Error> {
    let root = Root::of(path)?;
    let mut loading = Loading {
        reader: Reader::new(keep),
        buffer: Buffer::default(),
        take,
        seen: HashMap::new(),
        problems: Vec::new(),
    };
    match root {
        Root::File(path) => loading.file(&path),
        Root::Directory(path) => walk(&path, 0, &mut |path, entry| match entry {
            Entry::Directory => {}
            Entry::File => loading.file(path),
            Entry::Unreadable(error) => loading.problem(path, error.to_string()),
            Entry::TooDeep => loading.problem(path, "too many directories deep; left out".into()),
        }),
    }
    Ok(loading.problems)
}

struct Loading<F> {
    reader: Reader,
    buffer: Buffer,
    take: F,
    /// In which file each object was seen first.
    seen: HashMap<ObjectKey, Arc<Path>>,
    problems: Vec<Problem>,
}

impl<F: FnMut(Object)> Loading<F> {
    fn file(&mut self, path: &Path) {
        let file: Arc<Path> = path.into();
        let Loading { reader, buffer, take, seen, problems } = self;
        let read = buffer
            .read(path, |bytes, _, _| take_in(&file, bytes, reader, &mut Sink { take, seen, problems }));
        if let Err(error) = read {
            self.problem(path, error.to_string());
        }
    }

    fn problem(&mut self, path: &Path, what: String) {
        self.problems.push(Problem::of_file(path.into(), what));
    }
}

/// Where what is found goes.
struct Sink<'l, F> {
    take: &'l mut F,
    seen: &'l mut HashMap<ObjectKey, Arc<Path>>,
    problems: &'l mut Vec<Problem>,
}

/// Takes in the bytes of one file.
fn take_in<F: FnMut(Object)>(file: &Arc<Path>, bytes: &[u8], reader: &mut Reader, into: &mut Sink<'_, F>) {
    let Sink { take, seen, problems } = into;
    reader.read(bytes, &mut |found| match found {
        Found::Object(object, _) => match seen.entry(object.key()) {
            Slot::Vacant(slot) => {
                slot.insert(file.clone());
                take(object);
            }
            Slot::Occupied(first) => {
                problems.push(Problem::twice(&object.key(), file, first.get()));
            }
        },
        Found::Problem { severity, document, line, object, what } => {
            problems.push(Problem { severity, file: file.clone(), document, line, object, what });
        }
        Found::Lost(_) => {}
    });
}

/// Reads manifests that are in hand already; messages call them `name`.
pub fn parse(name: &Path, bytes: &[u8], keep: Keep) -> Loaded {
    let Loaded { mut objects, mut problems } = Loaded::default();
    let mut take = |object| objects.push(object);
    let mut into = Sink { take: &mut take, seen: &mut HashMap::new(), problems: &mut problems };
    take_in(&name.into(), bytes, &mut Reader::new(keep), &mut into);
    Loaded { objects, problems }
}

impl Problem {
    /// A problem with a file as a whole.
    pub(crate) fn of_file(file: Arc<Path>, what: String) -> Problem {
        Problem { severity: Severity::Error, file, document: 0, line: 0, object: None, what }
    }

    /// The same object again.
    pub(crate) fn twice(key: &ObjectKey, file: &Arc<Path>, first: &Arc<Path>) -> Problem {
        let what = match file == first {
            true => "a second time in the same file; the first counts".to_owned(),
            false => format!("also in {}, which comes first and counts", first.display()),
        };
        Problem { object: Some(describe(key)), ..Problem::of_file(file.clone(), what) }
    }
}

/// How messages call an object.
fn describe(key: &ObjectKey) -> String {
    match key {
        ObjectKey::Service(name) => format!("Service {name}"),
        ObjectKey::Slice(name) => format!("EndpointSlice {name}"),
        ObjectKey::Node(name) => format!("Node {name}"),
        ObjectKey::Namespace(name) => format!("Namespace {name}"),
        ObjectKey::Pod(name) => format!("Pod {name}"),
        ObjectKey::ServiceCidr(name) => format!("ServiceCIDR {name}"),
    }
}
