//! A configuration file, from its text to what it means.

use crate::check::Invalid;
use crate::decode::{Field, Findings};
use crate::meant::Configuration;
use crate::portolan::{self, PortolanConfiguration};
use crate::tree::{FieldPath, Tree, documents, in_file};
use crate::v1alpha1::{self, KubeProxyConfiguration};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// What a file says.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// As typed, with the defaults filled in.
    pub typed: KubeProxyConfiguration,
    /// As meant.
    pub configuration: Configuration,
    /// What only Portolan has.
    pub portolan: PortolanConfiguration,
    /// What is odd but does no harm, one line each, with the file's name.
    pub warnings: Vec<String>,
}

/// A file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It cannot be read.
    #[error("read configuration {}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It is not YAML or JSON, or not a configuration.
    #[error("{}", in_file(file, *line, what))]
    Malformed {
        /// The file.
        file: PathBuf,
        /// Where.
        line: Option<u64>,
        /// What is wrong.
        what: String,
    },
    /// It says what it may not.
    #[error("{}", Refused(file, errors))]
    Refused {
        /// The file.
        file: PathBuf,
        /// What is wrong, one field each.
        errors: Vec<String>,
    },
}

/// All that is wrong with a file, a line each.
struct Refused<'e>(&'e Path, &'e [String]);

impl fmt::Display for Refused<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Refused(file, errors) = self;
        for (index, error) in errors.iter().enumerate() {
            let end = if index == 0 { "" } else { "\n" };
            write!(f, "{end}{}", in_file(file, None, error))?;
        }
        Ok(())
    }
}

/// Reads a configuration file.
pub fn load(file: &Path) -> Result<Loaded, Error> {
    let bytes = std::fs::read(file).map_err(|source| Error::Read { file: file.to_owned(), source })?;
    let text = String::from_utf8(bytes).map_err(|_| malformed(file, None, "not UTF-8 text"))?;
    parse(&text, file)
}

/// Reads a configuration from its text. The file is named in messages only.
pub fn parse(text: &str, file: &Path) -> Result<Loaded, Error> {
    let trees = documents(text).map_err(|error| malformed(file, error.line, &error.what))?;
    let mut typed: Option<KubeProxyConfiguration> = None;
    let mut ours: Option<PortolanConfiguration> = None;
    let mut warnings = Vec::new();
    let mut errors = Vec::new();
    for tree in trees {
        let mut findings = Findings::default();
        match kind(&tree).map_err(|what| malformed(file, None, &what))? {
            Kind::KubeProxy => {
                once(&typed, v1alpha1::KIND, file)?;
                typed = Some(decode(tree, v1alpha1::KIND, &mut findings));
                warnings.extend(findings.oddities);
            }
            Kind::Portolan => {
                once(&ours, portolan::KIND, file)?;
                ours = Some(decode(tree, portolan::KIND, &mut findings));
                errors.extend(findings.oddities);
            }
        }
        errors.extend(findings.errors);
    }
    if typed.is_none() && ours.is_none() {
        let what = format!("no document of kind {} in it", v1alpha1::KIND);
        return Err(malformed(file, None, &what));
    }
    let refused = |errors| Error::Refused { file: file.to_owned(), errors };
    if !errors.is_empty() {
        return Err(refused(errors));
    }
    let typed = typed.unwrap_or_default().with_defaults();
    let configuration = Configuration::new(&typed)
        .map_err(|invalid| refused(invalid.iter().map(Invalid::to_string).collect()))?;
    Ok(Loaded {
        typed,
        configuration,
        portolan: ours.unwrap_or_default(),
        warnings: warnings.iter().map(|what| in_file(file, None, what)).collect(),
    })
}

fn malformed(file: &Path, line: Option<u64>, what: &str) -> Error {
    Error::Malformed { file: file.to_owned(), line, what: what.to_owned() }
}

fn once<T>(there: &Option<T>, kind: &str, file: &Path) -> Result<(), Error> {
    match there {
        None => Ok(()),
        Some(_) => Err(malformed(file, None, &format!("more than one document of kind {kind}"))),
    }
}

/// What a document is.
enum Kind {
    KubeProxy,
    Portolan,
}

fn kind(tree: &Tree) -> Result<Kind, String> {
    if !matches!(tree, Tree::Map(_)) {
        return Err(format!("{}, not a configuration", tree.shape()));
    }
    let kind = tree.text("kind").ok_or("kind: missing")?;
    let api_version = tree.text("apiVersion").ok_or("apiVersion: missing")?;
    let (found, wanted) = match kind {
        v1alpha1::KIND => (Kind::KubeProxy, v1alpha1::API_VERSION),
        portolan::KIND => (Kind::Portolan, portolan::API_VERSION),
        other => return Err(format!("kind: {other:?} is not {} or {}", v1alpha1::KIND, portolan::KIND)),
    };
    if api_version != wanted {
        return Err(format!("apiVersion: {api_version:?} of {kind} is not {wanted}"));
    }
    Ok(found)
}

/// Reads a document, what it is having been read already.
fn decode<T: Field + Default>(tree: Tree, kind: &str, findings: &mut Findings) -> T {
    let mut value = T::default();
    let tree = match tree {
        Tree::Map(mut fields) => {
            for name in ["apiVersion", "kind"] {
                if let Some(place) = fields.iter().rposition(|(field, _)| field == name) {
                    fields.remove(place);
                }
                if fields.iter().any(|(field, _)| field == name) {
                    fields.retain(|(field, _)| field != name);
                    findings.oddities.push(format!("field {kind}.{name} is given twice; the last counts"));
                }
            }
            Tree::Map(fields)
        }
        other => other,
    };
    value.read(&tree, &FieldPath::root(kind), findings);
    value
}
