//! The cluster on disk, for a node that starts while the API server is away.
//!
//! One JSON object a line, manifests like any others (`portolan trace --manifests` reads them), behind
//! a line that says what they are and what their hash is. Written beside and renamed into place, so a
//! crash leaves the old one; what is damaged, or of another version, is not believed at all.

use crate::manifest::{Found, Keep, Reader, Snapshot};
use model::Object;
use sha2::{Digest, Sha256};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::SystemTime;

/// What a file of ours begins with.
const HEAD: &str = "{\"apiVersion\":\"portolan.dev/v1\",\"kind\":\"Checkpoint\",\"sha256\":\"";
/// And what stands behind the hash.
const HEAD_END: &str = "\"}\n";
/// A hash in hexadecimal digits.
const HASH: usize = 64;
/// So much is read at once.
const PIECE: usize = 64 << 10;
/// One object may be so large.
const LINE_MAX: u64 = 8 << 20;

/// Writes a cluster. The directory is made if it is not there.
pub fn save_checkpoint(file: &Path, cluster: &Snapshot) -> io::Result<()> {
    let directory = file.parent().filter(|directory| !directory.as_os_str().is_empty());
    if let Some(directory) = directory {
        fs::create_dir_all(directory)?;
    }
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let draft = file.with_file_name(format!(".{name}.new"));
    // It tells of every Service of the cluster.
    let open = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    let mut out = BufWriter::new(open);
    let head = |hash: &str| format!("{HEAD}{hash}{HEAD_END}");
    out.write_all(head(&"0".repeat(HASH)).as_bytes())?;
    let mut hasher = Sha256::new();
    for manifest in cluster.manifests() {
        let line = format!("{manifest}\n");
        hasher.update(line.as_bytes());
        out.write_all(line.as_bytes())?;
    }
    out.seek(SeekFrom::Start(0))?;
    out.write_all(head(&hex(&hasher.finalize())).as_bytes())?;
    let written = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    written.sync_all()?;
    fs::rename(&draft, file)?;
    // The rename itself is on disk when the directory is.
    match directory {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

/// Reads a cluster, all of it or nothing, and says when it was written.
pub fn load_checkpoint(file: &Path, mut take: impl FnMut(Object)) -> io::Result<SystemTime> {
    let damaged = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let mut input = BufReader::new(File::open(file)?);
    let written = input.get_ref().metadata()?.modified()?;
    let mut head = String::new();
    input.by_ref().take(LINE_MAX).read_line(&mut head)?;
    let hash = head.strip_prefix(HEAD).and_then(|rest| rest.strip_suffix(HEAD_END));
    let hash = hash.ok_or_else(|| damaged("no checkpoint of this version"))?;
    let mut hasher = Sha256::new();
    let mut piece = vec![0; PIECE];
    loop {
        match input.read(&mut piece)? {
            0 => break,
            read => hasher.update(piece.get(..read).unwrap_or_default()),
        }
    }
    if hex(&hasher.finalize()) != hash {
        return Err(damaged("it is damaged"));
    }
    input.seek(SeekFrom::Start(head.len() as u64))?;
    let mut reader = Reader::new(Keep::ALL);
    let mut line = Vec::new();
    loop {
        line.clear();
        if input.by_ref().take(LINE_MAX).read_until(b'\n', &mut line)? == 0 {
            return Ok(written);
        }
        reader.read(&line, &mut |found| {
            if let Found::Object(object, _) = found {
                take(object);
            }
        });
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{Change, Cluster};
    use proptest::prelude::*;
    use std::path::PathBuf;

    fn file(name: &str) -> PathBuf {
        std::env::temp_dir()
            .join(format!("portolan-checkpoint-{}-{name}", std::process::id()))
            .join("cluster")
    }

    fn load(file: &Path) -> io::Result<Cluster> {
        let mut cluster = Cluster::new();
        load_checkpoint(file, |object| drop(cluster.apply(Change::Apply(object))))?;
        Ok(cluster)
    }

    fn clean(file: &Path) {
        fs::remove_dir_all(file.parent().expect("a directory of its own")).expect("it is ours");
    }

    proptest! {
        // Each waits for a disk.
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn what_is_written_is_what_is_read(changes in prop::collection::vec(sample::change(), 0..40)) {
            let file = file("any");
            let mut cluster = Cluster::new();
            changes.into_iter().for_each(|change| drop(cluster.apply(change)));
            // Samples hold what no manifest says; once read they hold what manifests do.
            save_checkpoint(&file, &Snapshot::of(&cluster)).expect("it can be written");
            let once = load(&file).expect("it can be read");
            save_checkpoint(&file, &Snapshot::of(&once)).expect("it can be written");
            let twice = load(&file).expect("it can be read");
            clean(&file);
            prop_assert_eq!(&once, &twice);
            prop_assert_eq!(cluster.services().len(), once.services().len());
            prop_assert_eq!(cluster.all_slices().count(), once.all_slices().count());
        }
    }

    const MANIFEST: &str = r#"
apiVersion: v1
kind: Service
metadata:
  name: web
  namespace: shop
  creationTimestamp: "2024-02-29T12:34:56Z"
  labels: {app: web, service.kubernetes.io/service-proxy-name: other}
  annotations: {portolan.dev/scheduler: lc}
spec:
  type: LoadBalancer
  clusterIPs: [10.96.0.1, "fd00::1"]
  externalIPs: [192.0.2.1]
  loadBalancerSourceRanges: [198.51.100.0/24]
  externalTrafficPolicy: Local
  healthCheckNodePort: 31000
  sessionAffinity: ClientIP
  publishNotReadyAddresses: true
  ports: [{name: http, port: 80, nodePort: 30080}, {name: dns, port: 53, protocol: UDP}]
status: {loadBalancer: {ingress: [{ip: 192.0.2.2}, {ip: 192.0.2.3, ipMode: Proxy}, {hostname: lb.example.org}]}}
---
apiVersion: v1
kind: Service
metadata: {name: out, namespace: shop}
spec: {type: ExternalName, externalName: example.org}
---
apiVersion: v1
kind: Service
metadata: {name: headless, namespace: shop}
spec: {clusterIP: None, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv6
ports: [{name: http, port: 8080}]
endpoints:
- addresses: ["fd01::1"]
  conditions: {ready: false, serving: true, terminating: true}
  nodeName: a
  zone: z
  hostname: h
  targetRef: {kind: Pod, name: p}
  hints: {forZones: [{name: z}], forNodes: [{name: a}]}
---
apiVersion: v1
kind: Node
metadata: {name: a, labels: {topology.kubernetes.io/zone: z}}
spec: {podCIDRs: [10.1.0.0/24], taints: [{key: ToBeDeletedByClusterAutoscaler}]}
status: {addresses: [{type: InternalIP, address: 192.0.2.9}]}
---
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {a: b}}
---
apiVersion: v1
kind: Pod
metadata: {name: p, namespace: shop}
spec: {nodeName: a, hostNetwork: true}
status: {podIPs: [{ip: 10.1.0.5}, {ip: "fd01::5"}]}
---
apiVersion: networking.k8s.io/v1
kind: ServiceCIDR
metadata: {name: c}
spec: {cidrs: [10.96.0.0/16, "fd00::/108"]}
"#;

    fn written(name: &str) -> (PathBuf, Cluster) {
        let loaded = crate::parse("t".as_ref(), MANIFEST.as_bytes(), Keep::ALL);
        assert!(loaded.problems.is_empty(), "{:?}", loaded.problems);
        let mut cluster = Cluster::new();
        loaded.objects.into_iter().for_each(|object| drop(cluster.apply(Change::Apply(object))));
        let file = file(name);
        save_checkpoint(&file, &Snapshot::of(&cluster)).expect("it can be written");
        (file, cluster)
    }

    #[test]
    fn every_field_comes_back() {
        let (file, cluster) = written("fields");
        assert_eq!(load(&file).expect("it can be read"), cluster);
        // It is a file of manifests like any other, but for its first line.
        let loaded = crate::load(&file, Keep::ALL).expect("it can be read");
        assert_eq!((loaded.objects.len(), loaded.problems.len()), (8, 1), "{:?}", loaded.problems);
        clean(&file);
    }

    #[test]
    fn what_is_damaged_is_not_believed() {
        let (file, _) = written("damage");
        let good = fs::read(&file).expect("it is there");
        assert!(load(&file).is_ok());
        let mut cases =
            vec![Vec::new(), good[1..].to_vec(), good[..good.len() - 1].to_vec(), b"{}\n".to_vec()];
        for at in (0..good.len()).step_by(97) {
            let mut bad = good.clone();
            bad[at] ^= 1;
            cases.push(bad);
        }
        cases.push([&good[..], b"{}\n"].concat());
        for bad in cases {
            fs::write(&file, &bad).expect("it is ours");
            let error = load(&file).expect_err("it is damaged");
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
        }
        clean(&file);
    }
}
