//! Manifests and what becomes of them: each file of `cases` is loaded, and what comes out is
//! compared with the file of that name and `.expected`. `UPDATE=1` writes the expected files anew; read the
//! difference before you believe it.
#![allow(clippy::print_stdout)]

use libtest_mimic::{Arguments, Failed, Trial};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use watch::{Keep, load};

fn main() {
    let arguments = Arguments::from_args();
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut trials = Vec::new();
    for entry in std::fs::read_dir(&directory).expect("the directory of cases") {
        let path = entry.expect("an entry of the directory of cases").path();
        if path.extension().is_some_and(|end| end != "expected") {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            trials.push(Trial::test(name, move || check(path)));
        }
    }
    libtest_mimic::run(&arguments, trials).exit();
}

fn check(manifest: PathBuf) -> Result<(), Failed> {
    let got = render(&manifest)?;
    let mut expected = manifest.clone().into_os_string();
    expected.push(".expected");
    if std::env::var_os("UPDATE").is_some() {
        return Ok(std::fs::write(expected, got)?);
    }
    let want = std::fs::read_to_string(&expected)?;
    if got == want { Ok(()) } else { Err(format!("got:\n{got}\nwant:\n{want}").into()) }
}

fn render(manifest: &Path) -> Result<String, Failed> {
    let loaded = load(manifest, Keep::ALL)?;
    let mut out = String::new();
    for object in loaded.objects {
        writeln!(out, "{object:#?}")?;
    }
    for problem in loaded.problems {
        let file = format!("{}", manifest.display());
        writeln!(out, "{}: {}", problem.severity, problem.to_string().replace(&file, "FILE"))?;
    }
    Ok(out)
}
