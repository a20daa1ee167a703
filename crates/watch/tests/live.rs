//! A directory that changes while it is watched, with real files.
//!
//! No test sleeps and hopes: where nothing may happen, a file written afterwards marks the moment up
//! to which nothing did.

use model::{Change, Cluster, ObjectName};
use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use watch::{Batch, Directory, Keep};

/// Longer than anything takes; it is waited for only when a test fails.
const FOREVER: Duration = Duration::from_secs(20);

struct Live {
    root: PathBuf,
    batches: Receiver<Batch>,
    cluster: Cluster,
    problems: Vec<String>,
    /// Every change since it was last asked for, as `+name` and `-name`.
    changes: Vec<String>,
    errors: usize,
    marks: u32,
    /// Last, so that it is dropped last.
    directory: Option<Directory>,
}

/// A directory of its own for a test.
fn temporary() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let unique = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("portolan-live-{}-{unique}", std::process::id()));
    fs::create_dir_all(&path).unwrap();
    path
}

fn service(name: &str, ip: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  clusterIP: {ip}\n  ports: [{{port: 80}}]\n"
    )
}

impl Live {
    fn new(prepare: impl FnOnce(&Path)) -> Live {
        let root = temporary();
        let manifests = root.join("manifests");
        fs::create_dir(&manifests).unwrap();
        prepare(&manifests);
        Live::at(root, &manifests)
    }

    fn at(root: PathBuf, path: &Path) -> Live {
        let (sender, batches) = channel();
        let directory =
            Directory::watch(path, Keep::default(), move |batch| sender.send(batch).is_ok()).unwrap();
        let mut live = Live {
            root,
            batches,
            cluster: Cluster::new(),
            problems: vec![],
            changes: vec![],
            errors: 0,
            marks: 0,
            directory: Some(directory),
        };
        while !live.batch() {}
        live
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join("manifests").join(name)
    }

    /// Takes the next batch. Whether all from the start is there now.
    fn batch(&mut self) -> bool {
        let batch = self.batches.recv_timeout(FOREVER).expect("a batch");
        for change in batch.changes {
            let name = |key: &model::ObjectKey| {
                format!("{key:?}").split('/').next_back().unwrap_or("").replace(')', "")
            };
            self.changes.push(match &change {
                Change::Apply(object) => format!("+{}", name(&object.key())),
                Change::Delete(key) => format!("-{}", name(key)),
            });
            self.cluster.apply(change);
        }
        self.problems.extend(batch.problems.iter().map(ToString::to_string));
        self.errors = batch.errors;
        batch.loaded
    }

    fn ip(&self, name: &str) -> Option<String> {
        let service = self.cluster.service(&ObjectName::new("default", name))?;
        service.cluster_ips.first().map(ToString::to_string)
    }

    /// Waits until a Service has this ClusterIP, or is gone.
    fn until(&mut self, name: &str, ip: Option<&str>) {
        while self.ip(name).as_deref() != ip {
            self.batch();
        }
    }

    /// Waits until all that has happened so far has been heard.
    fn mark(&mut self) {
        self.marks += 1;
        let ip = format!("10.255.0.{}", self.marks);
        fs::write(self.path("zz-mark.yaml"), service("mark", &ip)).unwrap();
        self.until("mark", Some(&ip));
    }

    fn told(&mut self) -> Vec<String> {
        self.changes.retain(|change| change != "+mark");
        std::mem::take(&mut self.changes)
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if let Some(directory) = self.directory.take() {
            directory.stop();
        }
        fs::remove_dir_all(&self.root).unwrap_or_default();
    }
}

#[test]
fn added_changed_removed() {
    let mut live = Live::new(|at| fs::write(at.join("a.yaml"), service("a", "10.96.0.1")).unwrap());
    assert_eq!(live.ip("a").as_deref(), Some("10.96.0.1"));
    fs::write(
        live.path("b.json"),
        r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"b"},"spec":{"clusterIP":"10.96.0.2"}}"#,
    )
    .unwrap();
    live.until("b", Some("10.96.0.2"));
    fs::write(live.path("a.yaml"), service("a", "10.96.0.3")).unwrap();
    live.until("a", Some("10.96.0.3"));
    fs::remove_file(live.path("b.json")).unwrap();
    live.until("b", None);
    fs::write(live.path("new"), service("a", "10.96.0.4")).unwrap();
    fs::rename(live.path("new"), live.path("a.yaml")).unwrap();
    live.until("a", Some("10.96.0.4"));
    live.told();
    fs::rename(live.path("a.yaml"), live.path("c.yaml")).unwrap();
    live.mark();
    fs::remove_file(live.path("c.yaml")).unwrap();
    live.until("a", None);
    // The rename took nothing away.
    assert_eq!(live.told(), ["+a", "-a"]);
}

#[test]
fn half_written_never_counts() {
    let mut live = Live::new(|at| fs::write(at.join("a.yaml"), service("a", "10.96.0.1")).unwrap());
    live.told();
    let whole = service("a", "10.96.0.2");
    // In place, the old contents gone and the new ones coming by and by.
    let mut file = fs::File::create(live.path("a.yaml")).unwrap();
    live.mark();
    for byte in whole.as_bytes() {
        file.write_all(&[*byte]).unwrap();
    }
    live.mark();
    // A new one.
    let mut other = fs::File::create(live.path("b.yaml")).unwrap();
    other.write_all(service("b", "10.96.0.3").as_bytes()).unwrap();
    live.mark();
    // A second writer comes and goes while the first is still at it.
    drop(fs::File::options().append(true).open(live.path("a.yaml")).unwrap());
    live.mark();
    assert_eq!(live.told(), [""; 0]);
    drop(file);
    live.until("a", Some("10.96.0.2"));
    drop(other);
    live.until("b", Some("10.96.0.3"));
    let mut told = live.told();
    told.dedup();
    assert_eq!(told, ["+a", "+b"]);
}

#[test]
fn half_written_at_the_start() {
    let mut writer = None;
    let mut live = Live::new(|at| {
        let mut file = fs::File::create(at.join("a.yaml")).unwrap();
        file.write_all(b"apiVersion: v1\nkind: Service\nmetadata: {name: a}\n").unwrap();
        writer = Some(file);
    });
    assert!(live.cluster.services().next().is_none());
    writer.take().unwrap().write_all(b"spec: {clusterIP: 10.96.0.1}\n").unwrap();
    live.until("a", Some("10.96.0.1"));
}

#[test]
fn last_good_state_wins() {
    let mut live = Live::new(|at| {
        let both = format!("{}---\n{}", service("a", "10.96.0.1"), service("b", "10.96.0.2"));
        fs::write(at.join("ab.yaml"), both).unwrap();
    });
    live.told();
    fs::write(live.path("ab.yaml"), format!("{}---\nkind: [", service("a", "10.96.0.3"))).unwrap();
    live.until("a", Some("10.96.0.3"));
    assert_eq!(live.ip("b").as_deref(), Some("10.96.0.2"));
    assert_eq!(live.errors, 1);
    assert!(live.problems.iter().any(|p| p.contains("ab.yaml: document 2, line 8")), "{:#?}", live.problems);
    // A Service that makes no sense any more stays as it was.
    fs::write(live.path("ab.yaml"), format!("{}---\n{}", service("a", "nowhere"), service("b", "10.96.0.4")))
        .unwrap();
    live.until("b", Some("10.96.0.4"));
    assert_eq!(live.ip("a").as_deref(), Some("10.96.0.3"));
    fs::write(live.path("ab.yaml"), [0xff, 0xfe, 0]).unwrap();
    live.mark();
    assert_eq!(live.ip("a").as_deref(), Some("10.96.0.3"));
    fs::write(live.path("ab.yaml"), service("b", "10.96.0.4")).unwrap();
    live.until("a", None);
    assert_eq!(live.errors, 0);
    assert_eq!(live.told(), ["+a", "+b", "+b", "-a"]);
}

#[test]
fn other_files_do_not_count() {
    let mut live = Live::new(|_| {});
    for name in [".a.yaml.swp", ".a.yaml", "a.yaml~", "a.yaml.tmp", "4913", "a.txt", "#a.yaml#"] {
        fs::write(live.path(name), service("a", "10.96.0.1")).unwrap();
    }
    nix::unistd::mkfifo(&live.path("pipe.yaml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    live.mark();
    assert_eq!(live.told(), [""; 0]);
    assert!(
        live.problems.iter().all(|p| p.contains("pipe.yaml: not a regular file")),
        "{:#?}",
        live.problems
    );
}

/// The ways in which editors and tools replace a file: nothing is deleted on the way.
#[test]
fn replaced_without_a_gap() {
    let mut live = Live::new(|at| fs::write(at.join("a.yaml"), service("a", "10.96.0.1")).unwrap());
    live.told();
    // vim: the old one to a backup, a new one written.
    let mut slow = 0;
    let begun = Instant::now();
    fs::rename(live.path("a.yaml"), live.path("a.yaml~")).unwrap();
    fs::write(live.path("a.yaml"), service("a", "10.96.0.2")).unwrap();
    slow += usize::from(begun.elapsed() > Duration::from_millis(400));
    fs::remove_file(live.path("a.yaml~")).unwrap();
    live.until("a", Some("10.96.0.2"));
    // sed -i, kubectl: a new one renamed over.
    fs::write(live.path("sedXYZ"), service("a", "10.96.0.3")).unwrap();
    fs::rename(live.path("sedXYZ"), live.path("a.yaml")).unwrap();
    live.until("a", Some("10.96.0.3"));
    // git checkout: removed and written.
    for i in 4..50 {
        let text = service("a", &format!("10.96.0.{i}"));
        let begun = Instant::now();
        fs::remove_file(live.path("a.yaml")).unwrap();
        fs::write(live.path("a.yaml"), text).unwrap();
        slow += usize::from(begun.elapsed() > Duration::from_millis(4));
    }
    live.until("a", Some("10.96.0.49"));
    // A gap only where this machine made one.
    let told = live.told();
    assert!(told.iter().filter(|change| *change == "-a").count() <= slow, "{told:?}");
    // Renamed to a backup and never written again: gone after all.
    fs::rename(live.path("a.yaml"), live.path("a.yaml~")).unwrap();
    live.until("a", None);
}

#[test]
fn the_same_object_in_two_files() {
    let mut live = Live::new(|at| {
        fs::write(at.join("b.yaml"), service("x", "10.96.0.2")).unwrap();
        fs::write(at.join("c.yaml"), service("x", "10.96.0.3")).unwrap();
    });
    assert_eq!(live.ip("x").as_deref(), Some("10.96.0.2"));
    let both = |p: &String| {
        p.contains("c.yaml: Service default/x: also in") && p.contains("b.yaml, which comes first")
    };
    assert!(live.problems.iter().any(both), "{:#?}", live.problems);
    fs::write(live.path("a.yaml"), service("x", "10.96.0.1")).unwrap();
    live.until("x", Some("10.96.0.1"));
    // A file is heard of when it is made and when it is closed, and may be read both times.
    live.mark();
    live.told();
    fs::remove_file(live.path("a.yaml")).unwrap();
    live.until("x", Some("10.96.0.2"));
    fs::remove_file(live.path("b.yaml")).unwrap();
    live.until("x", Some("10.96.0.3"));
    assert_eq!(live.told(), ["+x", "+x"]);
    fs::remove_file(live.path("c.yaml")).unwrap();
    live.until("x", None);
}

#[test]
fn directories_within() {
    let mut live = Live::new(|at| {
        fs::create_dir_all(at.join("one/two")).unwrap();
        fs::write(at.join("one/two/a.yaml"), service("a", "10.96.0.1")).unwrap();
    });
    assert_eq!(live.ip("a").as_deref(), Some("10.96.0.1"));
    fs::write(live.path("one/two/a.yaml"), service("a", "10.96.0.2")).unwrap();
    live.until("a", Some("10.96.0.2"));
    fs::create_dir_all(live.path("three/four/five")).unwrap();
    fs::write(live.path("three/four/five/b.yaml"), service("b", "10.96.0.3")).unwrap();
    live.until("b", Some("10.96.0.3"));
    // Moved within: nothing is lost, and the new place is watched.
    live.told();
    fs::rename(live.path("three"), live.path("six")).unwrap();
    fs::write(live.path("six/four/five/b.yaml"), service("b", "10.96.0.4")).unwrap();
    live.until("b", Some("10.96.0.4"));
    live.mark();
    assert!(live.told().iter().all(|change| change == "+b"));
    // Moved out, and one that is hidden.
    fs::rename(live.path("six"), live.root.join("outside")).unwrap();
    live.until("b", None);
    fs::write(live.root.join("outside/four/five/b.yaml"), service("b", "10.96.0.5")).unwrap();
    fs::create_dir(live.path(".git")).unwrap();
    fs::write(live.path(".git/c.yaml"), service("c", "10.96.0.6")).unwrap();
    live.mark();
    assert_eq!((live.ip("b"), live.ip("c")), (None, None));
    fs::remove_dir_all(live.path("one")).unwrap();
    live.until("a", None);
}

/// How kubelet writes a ConfigMap: links into a directory that a link is swapped to.
#[test]
fn config_map() {
    fn write(at: &Path, version: &str, files: &[(&str, String)]) {
        let data = at.join(format!("..{version}"));
        fs::create_dir(&data).unwrap();
        for (name, text) in files {
            fs::write(data.join(name), text).unwrap();
        }
        symlink(format!("..{version}"), at.join("..data_tmp")).unwrap();
        fs::rename(at.join("..data_tmp"), at.join("..data")).unwrap();
        for (name, _) in files {
            let link = at.join(name);
            if !link.is_symlink() {
                symlink(Path::new("..data").join(name), link).unwrap();
            }
        }
    }
    let mut live = Live::new(|at| {
        write(at, "1", &[("a.yaml", service("a", "10.96.0.1")), ("b.yaml", service("b", "10.96.0.1"))]);
    });
    assert_eq!(live.ip("b").as_deref(), Some("10.96.0.1"));
    live.told();
    let at = live.path("");
    write(&at, "2", &[("a.yaml", service("a", "10.96.0.2")), ("b.yaml", service("b", "10.96.0.2"))]);
    fs::remove_dir_all(at.join("..1")).unwrap();
    live.until("b", Some("10.96.0.2"));
    assert_eq!(live.ip("a").as_deref(), Some("10.96.0.2"));
    assert_eq!(live.told(), ["+a", "+b"]);
    // One file fewer, one more: kubelet removes the link that is too many after the swap.
    write(&at, "3", &[("a.yaml", service("a", "10.96.0.3")), ("c.yaml", service("c", "10.96.0.3"))]);
    fs::remove_file(at.join("b.yaml")).unwrap();
    live.until("c", Some("10.96.0.3"));
    live.until("b", None);
    live.until("a", Some("10.96.0.3"));
}

#[test]
fn the_directory_itself() {
    let mut live = Live::new(|at| fs::write(at.join("a.yaml"), service("a", "10.96.0.1")).unwrap());
    let manifests = live.path("");
    let manifests = manifests.as_path();
    live.told();
    // Away: what it held stays.
    fs::rename(manifests, live.root.join("old")).unwrap();
    while !live.problems.iter().any(|p| p.contains("what it held stays until it is back")) {
        live.batch();
    }
    assert_eq!(live.ip("a").as_deref(), Some("10.96.0.1"));
    // Another in its place.
    let next = live.root.join("next");
    fs::create_dir(&next).unwrap();
    fs::write(next.join("b.yaml"), service("b", "10.96.0.2")).unwrap();
    fs::rename(&next, manifests).unwrap();
    live.until("b", Some("10.96.0.2"));
    live.until("a", None);
    // Removed with everything in it, and made again.
    fs::remove_dir_all(manifests).unwrap();
    live.until("b", None);
    fs::create_dir(manifests).unwrap();
    fs::write(manifests.join("c.yaml"), service("c", "10.96.0.3")).unwrap();
    live.until("c", Some("10.96.0.3"));
    fs::write(manifests.join("c.yaml"), service("c", "10.96.0.4")).unwrap();
    live.until("c", Some("10.96.0.4"));
}

/// How git-sync publishes a checkout: the path is a link that is swapped.
#[test]
fn a_link_to_a_directory() {
    let root = temporary();
    for (version, ip) in [("v1", "10.96.0.1"), ("v2", "10.96.0.2")] {
        fs::create_dir(root.join(version)).unwrap();
        fs::write(root.join(version).join("a.yaml"), service("a", ip)).unwrap();
    }
    symlink("v1", root.join("manifests")).unwrap();
    let path = root.join("manifests");
    let mut live = Live::at(root, &path);
    assert_eq!(live.ip("a").as_deref(), Some("10.96.0.1"));
    live.told();
    symlink("v2", live.root.join("tmp")).unwrap();
    fs::rename(live.root.join("tmp"), &path).unwrap();
    live.until("a", Some("10.96.0.2"));
    assert_eq!(live.told(), ["+a"]);
    fs::write(live.root.join("v2/a.yaml"), service("a", "10.96.0.3")).unwrap();
    live.until("a", Some("10.96.0.3"));
}

#[test]
fn a_single_file() {
    let root = temporary();
    let path = root.join("all-of-it.conf");
    fs::write(&path, service("a", "10.96.0.1")).unwrap();
    let mut live = Live::at(root, &path);
    assert_eq!(live.ip("a").as_deref(), Some("10.96.0.1"));
    fs::write(live.root.join("other.yaml"), service("b", "10.96.0.9")).unwrap();
    fs::write(&path, service("a", "10.96.0.2")).unwrap();
    live.until("a", Some("10.96.0.2"));
    assert_eq!(live.ip("b"), None);
    fs::remove_file(&path).unwrap();
    live.until("a", None);
    fs::write(&path, service("a", "10.96.0.3")).unwrap();
    live.until("a", Some("10.96.0.3"));
}

/// More events than the kernel's queue holds (fs.inotify.max_queued_events, 16384 by default).
#[test]
fn overflow() {
    let limit = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let limit: u32 = limit.trim().parse().unwrap();
    // Each file is two events, one when it comes to be and one when it is closed.
    let count = (limit / 2 + 1000).min(30_000);
    let root = temporary();
    let manifests = root.join("manifests");
    fs::create_dir(&manifests).unwrap();
    fs::write(manifests.join("a.yaml"), service("a", "10.96.0.1")).unwrap();
    let (sender, batches) = channel();
    let (arrived, arrivals) = channel();
    let (release, gate) = channel();
    let deliver = move |batch: Batch| {
        arrived.send(()).unwrap_or_default();
        gate.recv().unwrap_or_default();
        sender.send(batch).is_ok()
    };
    let directory = Directory::watch(&manifests, Keep::default(), deliver).unwrap();
    release.send(()).unwrap();
    arrivals.recv_timeout(FOREVER).unwrap();
    assert!(batches.recv_timeout(FOREVER).unwrap().loaded);
    // The watch waits at the gate with this one, while more happens than can be remembered.
    fs::write(manifests.join("stall.yaml"), service("stall", "10.96.0.1")).unwrap();
    arrivals.recv_timeout(FOREVER).unwrap();
    for i in 0..count {
        let name = manifests.join(format!("n{i}.json"));
        fs::write(name, format!(r#"{{"apiVersion":"v1","kind":"Namespace","metadata":{{"name":"n{i}"}}}}"#))
            .unwrap();
    }
    fs::remove_file(manifests.join("a.yaml")).unwrap();
    drop(release);
    let mut cluster = Cluster::new();
    let mut deleted = false;
    while cluster.namespaces().count() < count as usize || !deleted {
        for change in batches.recv_timeout(FOREVER).expect("all that was lost").changes {
            deleted |= matches!(&change, Change::Delete(_));
            cluster.apply(change);
        }
    }
    drop(batches);
    drop(directory);
    fs::remove_dir_all(&root).unwrap();
}

#[test]
fn nothing_to_watch() {
    let error = Directory::watch(Path::new("/nonexistent/manifests"), Keep::default(), |_| true).unwrap_err();
    assert_eq!(error.to_string(), "read manifests from /nonexistent/manifests");
}
