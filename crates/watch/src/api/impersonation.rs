//! For whom we act: `as` of a kubeconfig and what goes with it, as headers of each question.

use std::collections::BTreeMap;

/// The headers that say for whom we act; empty where that is ourselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Impersonation(String);

impl Impersonation {
    /// From the fields of a kubeconfig, of which `as` names the user.
    pub(super) fn read(
        user: String,
        uid: String,
        groups: Option<Vec<String>>,
        extra: Option<BTreeMap<String, Vec<String>>>,
    ) -> Result<Impersonation, String> {
        let (groups, extra) = (groups.unwrap_or_default(), extra.unwrap_or_default());
        if user.is_empty() {
            // As client-go has it.
            let alone = [
                ("as-uid", uid.is_empty()),
                ("as-groups", groups.is_empty()),
                ("as-user-extra", extra.is_empty()),
            ];
            let alone = alone.into_iter().find(|(_, is_empty)| !is_empty);
            return match alone {
                Some((name, _)) => Err(format!("{name}: nobody is named by as")),
                None => Ok(Impersonation::default()),
            };
        }
        let mut text = String::new();
        let mut add = |field: &str, header: &str, value: &str| {
            if value.chars().any(char::is_control) {
                return Err(format!("{field}: control characters are no part of a name"));
            }
            text += &format!("Impersonate-{header}: {value}\r\n");
            Ok(())
        };
        add("as", "User", &user)?;
        if !uid.is_empty() {
            add("as-uid", "Uid", &uid)?;
        }
        groups.iter().try_for_each(|group| add("as-groups", "Group", group))?;
        for (key, values) in &extra {
            let header = format!("Extra-{}", escape(key));
            values.iter().try_for_each(|value| add("as-user-extra", &header, value))?;
        }
        Ok(Impersonation(text))
    }

    /// The headers, each with its end.
    pub(super) fn headers(&self) -> &str {
        &self.0
    }
}

/// A key as part of a header's name: what may not stand there is written as `%2f`.
fn escape(key: &str) -> String {
    let mut text = String::new();
    for byte in key.bytes() {
        match byte {
            b'!' | b'#' | b'$' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|'
            | b'~' => {
                text.push(char::from(byte));
            }
            _ if byte.is_ascii_alphanumeric() => text.push(char::from(byte)),
            _ => text += &format!("%{byte:02x}"),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers() {
        let extra = BTreeMap::from([("example.org/a b".to_owned(), vec!["x".to_owned(), "y, z".to_owned()])]);
        let all = Impersonation::read(
            "system:kube-proxy".into(),
            "7".into(),
            Some(vec!["a".into(), "b".into()]),
            Some(extra),
        );
        let wanted = "Impersonate-User: system:kube-proxy\r\nImpersonate-Uid: 7\r\n\
                      Impersonate-Group: a\r\nImpersonate-Group: b\r\n\
                      Impersonate-Extra-example.org%2fa%20b: x\r\nImpersonate-Extra-example.org%2fa%20b: y, z\r\n";
        assert_eq!(all.expect("it is right").headers(), wanted);
        let nobody = Impersonation::read(String::new(), String::new(), None, None).expect("it is right");
        assert_eq!(nobody.headers(), "");
    }

    #[test]
    fn what_will_not_do() {
        let read = |user: &str, uid: &str, groups: &[&str]| {
            let groups = groups.iter().map(|group| (*group).to_owned()).collect();
            Impersonation::read(user.into(), uid.into(), Some(groups), None)
        };
        assert_eq!(read("", "7", &[]), Err("as-uid: nobody is named by as".into()));
        assert_eq!(read("", "", &["a"]), Err("as-groups: nobody is named by as".into()));
        let bad = "control characters are no part of a name";
        assert_eq!(read("a\nX: y", "", &[]), Err(format!("as: {bad}")));
        assert_eq!(read("a", "", &["b\r"]), Err(format!("as-groups: {bad}")));
    }
}
