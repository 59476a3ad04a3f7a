//! From where a configuration is looked at: by the daemon that is about to use it, or by somebody who looks ahead for a service.
//! Who enters: the daemon itself; an operator before the first start, whose runtime directory and credentials are not there yet.
//! What leaves: whose rights count, and what may still be missing.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Who looks, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Viewpoint {
    /// The user whom the daemon runs as.
    pub(super) uid: u32,
    /// Its groups, where they are another's than ours.
    gids: Option<Vec<u32>>,
    /// The service manager has not been here yet.
    pub(super) ahead: bool,
}

/// There is no such user.
#[derive(Debug, thiserror::Error)]
#[error("there is no user `{0}` on this machine; name the one the daemon runs as, or its number")]
pub struct NoSuchUser(String);

/// Where the unit's user is named.
const SERVICE_USER: &str = "chancery";

impl Viewpoint {
    /// The daemon itself, now.
    pub fn own() -> Self {
        Self { uid: own_uid(), gids: None, ahead: false }
    }

    /// Somebody who looks ahead. The daemon's user is the one named, or the unit's where root looks and there is one, or whoever looks.
    ///
    /// # Errors
    /// There is no user of the name.
    pub fn ahead(user: Option<&str>) -> Result<Self, NoSuchUser> {
        let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
        let of_service = || users_line(&users, SERVICE_USER).filter(|_| own_uid() == 0).map(|_| SERVICE_USER);
        match user.or_else(of_service) {
            None => Ok(Self { ahead: true, ..Self::own() }),
            Some(name) => Self::of(name, &users, &groups),
        }
    }

    fn of(name: &str, users: &str, groups: &str) -> Result<Self, NoSuchUser> {
        let known = users_line(users, name);
        let (login, uid, gid) = match (known, name.parse::<u32>()) {
            (Some(known), _) => known,
            // A number that nobody has a name for: its group has the same one.
            (None, Ok(uid)) => (name, uid, uid),
            (None, Err(_)) => return Err(NoSuchUser(name.to_owned())),
        };
        let more = groups.lines().filter_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let is_in = fields.get(3)?.split(',').any(|member| member == login);
            fields.get(2)?.parse().ok().filter(|_| is_in)
        });
        let gids: Vec<u32> = std::iter::once(gid).chain(more).collect();
        Ok(Self { uid, gids: Some(gids).filter(|_| uid != own_uid()), ahead: true })
    }

    /// Why the daemon could not read a file that we can.
    pub(super) fn cannot_reach(&self, path: &Path) -> Option<String> {
        let gids = self.gids.as_deref().filter(|_| self.uid != 0)?;
        let may = |path: &Path, bit: u32| {
            std::fs::metadata(path).is_ok_and(|found| {
                let shift = match (found.uid() == self.uid, gids.contains(&found.gid())) {
                    (true, _) => 6,
                    (false, true) => 3,
                    (false, false) => 0,
                };
                found.mode() >> shift & bit != 0
            })
        };
        let closed = path.ancestors().skip(1).find(|directory| !may(directory, 0o1));
        match closed {
            Some(directory) => Some(format!("user {} may not enter {}", self.uid, directory.display())),
            None if !may(path, 0o4) => Some(format!("user {} may not read it", self.uid)),
            None => None,
        }
    }
}

/// Name, user id and group id of a user, by name or number.
fn users_line<'a>(users: &'a str, name: &str) -> Option<(&'a str, u32, u32)> {
    users.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [login, _, uid, gid, ..] = fields[..] else { return None };
        (login == name || uid == name).then_some((login, uid.parse().ok()?, gid.parse().ok()?))
    })
}

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

#[cfg(test)]
mod tests {
    use super::*;

    const USERS: &str =
        "root:x:0:0::/root:/bin/sh\nchancery:x:990:980::/var/lib/chancery:/usr/sbin/nologin\n";
    const GROUPS: &str = "softhsm:x:995:other,chancery\nwheel:x:10:other\n";

    #[test]
    fn a_user_is_found_by_name_and_number_with_all_groups() {
        for name in ["chancery", "990"] {
            let found = Viewpoint::of(name, USERS, GROUPS).unwrap();
            assert_eq!((found.uid, found.gids), (990, Some(vec![980, 995])), "{name}");
        }
        assert_eq!(Viewpoint::of("12345", USERS, GROUPS).unwrap().uid, 12345);
        assert!(Viewpoint::of("nobody-here", USERS, GROUPS).is_err());
    }

    #[test]
    fn what_root_can_read_and_the_daemon_not_is_seen() {
        use std::os::unix::fs::PermissionsExt;
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("file");
        std::fs::write(&file, "x").unwrap();
        let set = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap()
        };
        let other = Viewpoint { uid: own_uid() + 4321, gids: Some(vec![4321]), ahead: true };
        set(home.path(), 0o755);
        set(&file, 0o644);
        assert_eq!(other.cannot_reach(&file), None);
        set(&file, 0o600);
        assert!(other.cannot_reach(&file).unwrap().contains("may not read it"));
        set(home.path(), 0o700);
        assert!(other.cannot_reach(&file).unwrap().contains("may not enter"));
        assert_eq!(Viewpoint::own().cannot_reach(&file), None);
    }
}
