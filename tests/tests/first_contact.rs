//! An installation as docs/recipes/service.md says, on a copy of this machine's files: installed by the installer, configured from the
//! example, initialised and served by the unit's own user, and used by root and by an operator of the configuration.
//!
//! There is no service manager in it: what the unit adds (runtime directory, credential, groups) is made by hand here, with the owners
//! and modes that the unit asks for.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use promises::programs::{complained, program, said, tool};

/// A copy of this machine's files, in which changes stay: it ends with its keeper.
struct Machine {
    keeper: Child,
    daemon: Option<Child>,
    directory: tempfile::TempDir,
}

const OPERATOR: &str = "4321";

impl Machine {
    fn make() -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "run this as root: only root can lay one file system over another"
        );
        let directory = tempfile::tempdir().expect("a temporary directory");
        let place = |name: &str| directory.path().join(name).display().to_string();
        // The layers lie in memory: a layer over the very file system that it lies on is refused by some kernels.
        let script = format!(
            "mount -t tmpfs tmpfs {home} && mkdir {upper} {work} {merged} && \
             mount -t overlay overlay -o lowerdir=/,upperdir={upper},workdir={work} {merged} && \
             mount -t proc proc {merged}/proc && mount --rbind /dev {merged}/dev && mkdir -p {merged}/run {merged}/tmp && \
             mount -t tmpfs -o mode=0755 tmpfs {merged}/run && mount -t tmpfs -o mode=1777 tmpfs {merged}/tmp && \
             mkdir {merged}/tmp/built {merged}/tmp/source && mount --bind {built} {merged}/tmp/built && \
             mount --bind {source} {merged}/tmp/source && echo up && exec sleep infinity",
            home = directory.path().display(),
            upper = place("upper"),
            work = place("work"),
            merged = place("merged"),
            built = program("chancery").parent().expect("a directory").display(),
            source = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the source").display(),
        );
        let mut command = tool("unshare", "util-linux");
        command.args(["--mount", "--propagation", "private", "sh", "-ec", &script]).stdout(Stdio::piped());
        let mut keeper = command.spawn().expect("a mount namespace");
        let mut line = String::new();
        BufReader::new(keeper.stdout.take().expect("its output"))
            .read_line(&mut line)
            .expect("its first line");
        assert_eq!(line.trim(), "up", "the file systems could not be laid over each other");
        Self { keeper, daemon: None, directory }
    }

    /// A command on that machine.
    fn command(&self, words: &[&str]) -> Command {
        let mut command = tool("nsenter", "util-linux");
        let merged = self.directory.path().join("merged");
        command
            .args(["--mount", "--target", &self.keeper.id().to_string(), "chroot"])
            .arg(merged)
            .args(words);
        for name in ["CHANCERY_CONFIG", "CHANCERY_SOCKET", "CHANCERY_WORKSPACE"] {
            command.env_remove(name);
        }
        command
    }

    fn output(&self, words: &[&str]) -> Output {
        self.command(words).output().expect("a command on the machine")
    }

    fn succeeds(&self, words: &[&str]) -> String {
        let output = self.output(words);
        assert!(
            output.status.success(),
            "{words:?}: {}\n{}{}",
            output.status,
            said(&output),
            complained(&output)
        );
        said(&output)
    }

    fn shell(&self, script: &str) -> String {
        self.succeeds(&["sh", "-ec", script])
    }

    /// The words of somebody's shell.
    fn by<'a>(&self, who: &'a Who, words: &[&'a str]) -> Output {
        let all: Vec<&str> = who.prefix.iter().map(String::as_str).chain(words.iter().copied()).collect();
        self.output(&all)
    }

    fn id(&self, what: &str, name: &str) -> String {
        self.succeeds(&["id", what, name]).trim().to_owned()
    }

    /// As the unit runs it: its user, its groups, its runtime directory, its credential.
    fn as_the_unit(&self, words: &[&str]) -> Vec<String> {
        let (user, group, token) = (
            self.id("-u", "chancery"),
            self.id("-g", "chancery"),
            self.shell("getent group softhsm | cut -d: -f3"),
        );
        let groups = format!("{group},{}", token.trim());
        let drop = [
            "setpriv",
            "--reuid",
            &user,
            "--regid",
            &group,
            "--groups",
            &groups,
            "--inh-caps=-all",
            "--bounding-set=-all",
        ];
        drop.iter().chain(words).map(|word| (*word).to_owned()).collect()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for child in self.daemon.iter_mut().chain([&mut self.keeper]) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Who sits at the shell.
struct Who {
    name: &'static str,
    prefix: Vec<String>,
}

/// Steps 1 to 3 of the recipe, with the example as it stands.
fn installed() -> Machine {
    let machine = Machine::make();
    machine.shell("BUILD=/tmp/built /tmp/source/systemd/install.sh --token softhsm >/dev/null");
    machine.shell(
        "install -o root -g chancery -m 0640 /tmp/source/docs/chancery.example.toml /etc/chancery/chancery.toml
         printf 123456 >/etc/credstore/chancery.pin && chmod 0600 /etc/credstore/chancery.pin",
    );
    machine
}

#[test]
fn the_example_passes_the_check_before_the_first_start_and_defects_do_not() {
    let machine = installed();
    let check = |machine: &Machine| machine.output(&["chancery", "config", "check"]);
    let output = check(&machine);
    assert!(output.status.success(), "{}", complained(&output));
    assert_eq!(said(&output), "/etc/chancery/chancery.toml: OK\n");
    let output = machine.output(&["chancery", "--json", "config", "check"]);
    assert_eq!(said(&output), "{\"defects\":[],\"ok\":true}\n");
    for (spoil, mend, at, words) in [
        (
            "chmod 0644 /etc/credstore/chancery.pin",
            "chmod 0600 /etc/credstore/chancery.pin",
            "token.pin_file",
            "chmod 0600",
        ),
        (
            "mv /etc/credstore/chancery.pin /root/pin",
            "mv /root/pin /etc/credstore/chancery.pin",
            "token.pin_file",
            "put the PIN there",
        ),
        (
            "chown root /var/lib/chancery",
            "chown chancery /var/lib/chancery",
            "state_directory",
            "is owned by user 0",
        ),
        ("chmod 0750 /var/lib/chancery", "chmod 0700 /var/lib/chancery", "state_directory", "mode 0750"),
        (
            "chmod 0700 /usr/libexec/chancery",
            "chmod 0755 /usr/libexec/chancery",
            "token.worker",
            "may not enter",
        ),
    ] {
        machine.shell(spoil);
        let output = machine.output(&["chancery", "--json", "config", "check"]);
        assert_eq!(output.status.code(), Some(4), "{spoil}: {}", said(&output));
        // One document, whatever is wrong.
        let told: serde_json::Value = serde_json::from_str(&said(&output)).expect("one JSON document");
        let defects = told["defects"].as_array().expect("a list");
        assert_eq!((defects.len(), &defects[0]["at"]), (1, &at.into()), "{spoil}: {told}");
        assert!(defects[0]["what"].as_str().expect("words").contains(words), "{told}");
        assert!(defects[0]["line"].is_u64(), "{told}");
        machine.shell(mend);
    }
    assert!(check(&machine).status.success());
}

#[test]
fn the_installer_brings_manual_pages_and_completions_and_takes_all_away_again() {
    let machine = Machine::make();
    machine.shell("export BUILD=/tmp/built DESTDIR=/tmp/dest; for again in 1 2; do /tmp/source/systemd/install.sh >/dev/null; done");
    let installed = machine.shell("cd /tmp/dest && find . -type f -printf '%m %p\\n'");
    let installed: BTreeSet<&str> = installed.lines().collect();
    for (mode, path) in [
        (755, "usr/bin/chancery"),
        (755, "usr/bin/chancery-audit"),
        (755, "usr/libexec/chancery/chancery-hsm"),
        (644, "usr/share/bash-completion/completions/chancery"),
        (644, "usr/share/zsh/site-functions/_chancery"),
        (644, "usr/share/fish/vendor_completions.d/chancery.fish"),
        (644, "usr/share/doc/chancery/chancery.example.toml"),
        (644, "usr/share/man/man1/chancery-audit-check.1"),
    ] {
        assert!(installed.contains(format!("{mode} ./{path}").as_str()), "{path}: {installed:#?}");
    }
    for command in leaves() {
        let page = format!("644 ./usr/share/man/man1/chancery-{}.1", command.replace(' ', "-"));
        assert!(installed.contains(page.as_str()), "{page}");
    }
    let page = machine.shell("cat /tmp/dest/usr/share/man/man1/chancery-key-import.1");
    assert!(page.contains(".TH") && page.contains("\\-\\-file"), "{page}");
    let completed = machine.shell(
        "bash -c '. /tmp/dest/usr/share/bash-completion/completions/chancery; COMP_WORDS=(chancery to); COMP_CWORD=1; _chancery chancery to chancery; \
         echo ${COMPREPLY[@]}'",
    );
    assert_eq!(completed.trim(), "token");
    machine.shell("DESTDIR=/tmp/dest /tmp/source/systemd/uninstall.sh >/dev/null");
    assert_eq!(machine.shell("find /tmp/dest -type f"), "");
}

/// What asks the daemon, each with arguments that make sense; a refusal by the daemon is an answer too.
const COMMANDS: &[(&str, &[&str])] = &[
    ("status", &[]),
    ("token probe", &[]),
    ("token reseal", &[]),
    ("workspace create", &["NAME"]),
    ("workspace list", &[]),
    ("workspace close", &["no-such"]),
    ("workspace open", &["no-such"]),
    ("client enroll", &["-w", "NAME", "one", "--out", "OUT"]),
    ("client list", &["-w", "NAME"]),
    ("client revoke", &["-w", "NAME", "no-such", "--yes"]),
    ("ca list", &[]),
    ("ca retire", &["0000", "--yes"]),
    ("ca rotate", &[]),
    ("apikey create", &["-w", "NAME", "one", "--scope", "sign"]),
    ("apikey list", &["-w", "NAME"]),
    ("apikey revoke", &["-w", "NAME", "no-such", "--yes"]),
    ("key create", &["-w", "NAME", "release"]),
    ("key import", &["-w", "NAME", "other", "--file", "/etc/hostname"]),
    ("key list", &["-w", "NAME"]),
    ("key show", &["-w", "NAME", "release"]),
    ("sign", &["-w", "NAME", "--key", "release", "--out", "OUT/signature", "/etc/hostname"]),
    ("verify", &["-w", "NAME", "--key", "release", "--signature", "OUT/signature", "/etc/hostname"]),
    ("key rotate", &["-w", "NAME", "release"]),
    ("key disable", &["-w", "NAME", "release"]),
    ("key enable", &["-w", "NAME", "release"]),
    ("key schedule-destruction", &["-w", "NAME", "release"]),
    ("key keep", &["-w", "NAME", "release"]),
    ("audit entries", &[]),
    ("audit checkpoint", &[]),
    ("audit keys", &[]),
    ("audit seal", &[]),
    ("audit receipt", &["-w", "NAME", "1"]),
    ("audit export", &[]),
    ("saga list", &[]),
    ("saga show", &["wf_00000000000000000000"]),
    ("saga offers", &["-w", "NAME"]),
    ("saga start", &["-w", "NAME", "key.rotate", "{\"key\":\"release\"}"]),
    ("saga cancel", &["wf_00000000000000000000", "--reason", "x"]),
    ("saga approve", &["wf_00000000000000000000", "--yes"]),
    ("saga refuse", &["wf_00000000000000000000", "--yes"]),
    ("saga retry", &["wf_00000000000000000000", "--reason", "x"]),
    ("saga supply-result", &["wf_00000000000000000000", "--reason", "x", "--result", "{}"]),
    ("saga skip-undo", &["wf_00000000000000000000", "--reason", "x"]),
    ("saga resume-forward", &["wf_00000000000000000000", "--reason", "x"]),
    ("saga unwind", &["wf_00000000000000000000", "--reason", "x"]),
    ("saga abandon", &["wf_00000000000000000000", "--reason", "x"]),
    ("events", &[]),
    ("route list", &[]),
    ("route explain", &["/v1/keys"]),
    ("trace", &["req_00000000000000000000"]),
];
/// These are the daemon, make it, look at its files, or ask nobody.
const WITHOUT_THE_DAEMON: [&str; 5] = ["init", "serve", "dev", "config check", "completion"];
/// These name something that is not there, so the daemon's refusal is their right answer.
const REFUSED: [&str; 18] = [
    // The machine has no TPM.
    "token reseal",
    "audit receipt",
    "workspace close",
    "workspace open",
    "client revoke",
    "ca retire",
    "apikey revoke",
    "saga show",
    "saga cancel",
    "saga approve",
    "saga refuse",
    "saga retry",
    "saga supply-result",
    "saga skip-undo",
    "saga resume-forward",
    "saga unwind",
    "saga abandon",
    "trace",
];

/// The commands that have no commands below them, from the help that a golden text keeps.
fn leaves() -> BTreeSet<String> {
    let help = include_str!("../../gateway/tests/golden/help.txt");
    let all: Vec<&str> =
        help.lines().filter_map(|line| line.strip_prefix("$ chancery ")?.strip_suffix(" --help")).collect();
    let has_below = |one: &str| all.iter().any(|other| other.starts_with(&format!("{one} ")));
    all.iter().filter(|one| !has_below(one)).map(|one| (*one).to_owned()).collect()
}

#[test]
fn no_command_is_left_out_of_the_list() {
    let known: BTreeSet<String> =
        COMMANDS.iter().map(|(name, _)| *name).chain(WITHOUT_THE_DAEMON).map(str::to_owned).collect();
    assert_eq!(leaves(), known);
}

fn configured(machine: &Machine) {
    let serial = machine.succeeds(
        &machine
            .as_the_unit(&[
                "softhsm2-util",
                "--init-token",
                "--free",
                "--label",
                "chancery",
                "--pin",
                "123456",
                "--so-pin",
                "654321",
            ])
            .iter()
            .map(String::as_str)
            .collect::<Vec<_>>(),
    );
    drop(serial);
    let slots = machine.as_the_unit(&["softhsm2-util", "--show-slots"]);
    let slots = machine.succeeds(&slots.iter().map(String::as_str).collect::<Vec<_>>());
    let mut serial =
        slots.lines().filter_map(|line| line.trim().strip_prefix("Serial number:")).map(str::trim);
    let serial = serial.find(|serial| !serial.is_empty()).expect("the token's serial").to_owned();
    machine.shell(&format!(
        "cd /etc/chancery
         sed -i 's|^listen = .*|listen = \"127.0.0.1:0\"|; s|^names = .*|names = [\"localhost\"]|; s|^serial = .*|serial = \"{serial}\"|; \
                 s|^#uids = .*|uids = [0, {OPERATOR}]|; 0,/^#environment = .*/s||environment = {{ SOFTHSM2_CONF = \"/etc/softhsm/softhsm2.conf\" }}|; \
                 s|^#sandbox = {{ read.*|sandbox = {{ write = [\"/var/lib/softhsm/tokens\"] }}|' chancery.toml
         # What the unit makes at each start.
         install -d -o chancery -g chancery -m 0750 /run/chancery
         for unit in chancery chancery-init; do
           install -d -o chancery -g chancery -m 0500 /run/credentials/$unit.service
           install -o chancery -g chancery -m 0400 /etc/credstore/chancery.pin /run/credentials/$unit.service/chancery.pin
         done"
    ));
}

#[test]
fn root_and_a_configured_operator_run_every_command() {
    let mut machine = installed();
    configured(&machine);
    let checked = machine.output(&["chancery", "config", "check"]);
    assert!(checked.status.success(), "{}", complained(&checked));
    let init = machine.as_the_unit(&["chancery", "init"]);
    machine.succeeds(&init.iter().map(String::as_str).collect::<Vec<_>>());
    let serve = machine.as_the_unit(&["chancery", "serve", "--config", "/etc/chancery/chancery.toml"]);
    let mut command = machine.command(&serve.iter().map(String::as_str).collect::<Vec<_>>());
    let mut daemon = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the daemon");
    let mut line = String::new();
    BufReader::new(daemon.stdout.take().expect("its output")).read_line(&mut line).expect("its first line");
    machine.daemon = Some(daemon);
    assert!(line.starts_with("serving on "), "{line:?}");
    let group = machine.id("-g", "chancery");
    let words = ["setpriv", "--reuid", OPERATOR, "--regid", OPERATOR, "--groups", &group, "--inh-caps=-all"];
    machine.shell(&format!("install -d -m 0777 /tmp/out && install -d -o {OPERATOR} /tmp/out/operator && install -d /tmp/out/root"));
    for who in [
        Who { name: "root", prefix: Vec::new() },
        Who { name: "operator", prefix: words.iter().map(|word| (*word).to_owned()).collect() },
    ] {
        for (command, arguments) in COMMANDS {
            let out = format!("/tmp/out/{}", who.name);
            let arguments: Vec<String> =
                arguments.iter().map(|word| word.replace("NAME", who.name).replace("OUT", &out)).collect();
            let all = ["chancery"]
                .into_iter()
                .chain(command.split(' '))
                .chain(arguments.iter().map(String::as_str));
            let output = machine.by(&who, &all.collect::<Vec<_>>());
            // What is no key is refused before the daemon is asked; another test brings a real one in.
            let expected = if REFUSED.contains(command) {
                1
            } else if *command == "key import" {
                2
            } else {
                0
            };
            assert_eq!(
                output.status.code(),
                Some(expected),
                "{} {command}: {}{}",
                who.name,
                said(&output),
                complained(&output)
            );
        }
    }
    // Nobody else: neither another user of the group, nor the daemon's own.
    let stranger = Who {
        name: "stranger",
        prefix: ["setpriv", "--reuid", "5555", "--regid", "5555", "--groups", &group]
            .map(str::to_owned)
            .to_vec(),
    };
    let own = Who { name: "chancery", prefix: machine.as_the_unit(&[]) };
    for who in [stranger, own] {
        let output = machine.by(&who, &["chancery", "status"]);
        assert_eq!(output.status.code(), Some(3), "{}: {}", who.name, complained(&output));
    }
    let signature: PathBuf = "/tmp/out/root/signature".into();
    machine.succeeds(&["test", "-s", &signature.display().to_string()]);
}
