//! MOVE, COPY and REPLACE between two homes, in both directions, and CREATE of accounts and mailboxes, by several clients at once,
//! while a home, the frontend or a member of etcd is killed at a random moment, or a cable is cut. The directory is in
//! etcd.

mod board;
mod filer;
mod maker;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::imap::{Imap, Status, quote};
use crate::random::Random;
use crate::server::PASSWORD;
use crate::soak::ledger::Ledger;
use crate::soak::scene::{Blow, Scene};
use board::Board;
pub use board::{Counts, KINDS, Kind};
use filer::{Filer, MAILBOXES, USER};
use maker::{ADMINISTRATOR, Fate, HOMES, Maker, Names, TREE};

/// The frontend, the user's home, and that of others, at the end of a cable. All answer clients.
const NODES: [(&str, &str); 3] = [("fe1.example", ""), (HOMES[0], "serve,hold"), (HOMES[1], "serve,hold")];
/// Users who file messages.
const FILERS: usize = 3;
/// How long until all is well again.
const RECOVERY_MAX: Duration = Duration::from_secs(60);
/// How long nobody works on a name that is left half made: as long as its home waits, and a little.
const RESOLVED_MAX: Duration = Duration::from_secs(120);
/// The pause before the kill.
const PAUSE_US: u64 = 500_000;
/// So many kills, then all nodes are checked.
const CHECK_EVERY: u64 = 10;

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    /// The user's home is killed.
    Home,
    /// The home of what others share with the user.
    Other,
    /// The node that clients are connected to.
    Edge,
    /// A member of etcd: half of the time the one that leads.
    Directory,
    /// The other home is cut off from all without a word.
    Cable,
}

/// All, in turn.
pub const VICTIMS: [Victim; 5] =
    [Victim::Home, Victim::Other, Victim::Edge, Victim::Directory, Victim::Cable];

/// How much.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Kills, of all victims in turn.
    pub kills: u64,
    /// Repeats the choices of an earlier run.
    pub seed: u64,
    /// No round begins after so long, but each victim has its turn.
    pub time_max: Duration,
    /// Waits in the end until no name is left half made.
    pub is_patient: bool,
    /// The program, if it is not the one of the tests.
    pub binary: Option<PathBuf>,
}

/// What a soak saw.
#[derive(Debug, Default, Clone, Copy)]
pub struct Summary {
    /// Kills, by [`VICTIMS`].
    pub kills: [u64; VICTIMS.len()],
    /// Those of them that came while a command of a kind was under way, by [`KINDS`].
    pub during: [Counts; VICTIMS.len()],
    /// Commands that were answered with OK.
    pub done: Counts,
    /// Those of which nobody said what had become of them.
    pub open: Counts,
    /// Those that were refused.
    pub refused: Counts,
    /// Messages that were looked for.
    pub messages: u64,
    /// Names of which nobody said whether they were made, which were there all the same, or not.
    pub resolved: [u64; 2],
}

struct Run {
    scene: Scene,
    /// What the user was told.
    ledger: Ledger,
    names: Names,
    summary: Summary,
}

/// Kills, and looks each time whether everything is where it should be.
pub fn soak(plan: &Plan, mut report: impl FnMut(&str)) -> Result<Summary> {
    let began = Instant::now();
    let mut run = Run::prepare(plan)?;
    report(&format!("{:?}: three nodes", began.elapsed()));
    let (all, mut kill) = (VICTIMS.len() as u64, 0);
    while kill < plan.kills && (kill < all || began.elapsed() < plan.time_max) {
        let seed = plan.seed.wrapping_add(kill);
        let number = usize::try_from(kill % all)?;
        let said = run.one_kill(kill, number, seed);
        let said = said.with_context(|| format!("kill {kill}, {:?}, seed {seed}", VICTIMS[number]))?;
        kill += 1;
        report(&format!("{:?}: kill {kill}: {:?} {said}", began.elapsed(), VICTIMS[number]));
        if kill.is_multiple_of(CHECK_EVERY) {
            run.scene.check()?;
        }
    }
    if plan.is_patient {
        run.resolve()?;
    }
    run.scene.check()?;
    run.scene.murder.stop()?;
    Ok(run.summary)
}

impl Run {
    fn prepare(plan: &Plan) -> Result<Run> {
        let top = format!("admins = [\"{ADMINISTRATOR}\"]\n");
        let complaints = [
            "accounts that were being made",
            "another node failed a command",
            "the directory failed a command",
            "a session's home is lost",
            "gives no answer",
        ];
        let scene = Scene::set(plan.binary.as_deref(), NODES, &top, &complaints)?;
        let [front, home, other] = &scene.murder.nodes[..] else { anyhow::bail!("three nodes were started") };
        let off = front.cli(&["node", "hold", "off"], b"")?;
        ensure!(off.status.success(), "{}", off.text());
        home.add_user(USER)?;
        other.add_user("ben")?;
        let added = front
            .cli(&["user", "add", ADMINISTRATOR, "--login-only", "--password-stdin"], PASSWORD.as_bytes())?;
        ensure!(added.status.success(), "{}", added.text());
        let mut administrator = front.login(ADMINISTRATOR)?;
        administrator.ok(&format!("CREATE {TREE} {}", HOMES[1]))?;
        administrator.ok(&format!("SETACL {TREE} {USER} lrswipkxte"))?;
        for name in ["copies", "filed"] {
            administrator.ok(&format!("CREATE {TREE}/{name}"))?;
        }
        other.login("ben")?.ok(&format!("SETACL INBOX {USER} lrswipkxte"))?;
        let mut user = front.login(USER)?;
        for name in ["Copies", "Filed"] {
            user.ok(&format!("CREATE {name}"))?;
        }
        Ok(Run { scene, ledger: Ledger::of(MAILBOXES), names: Names::default(), summary: Summary::default() })
    }

    fn doors(&self) -> [SocketAddr; 3] {
        let nodes = &self.scene.murder.nodes;
        [0, 1, 2].map(|place| nodes.get(place).map_or(([0, 0, 0, 0], 0).into(), |node| node.imap))
    }

    fn one_kill(&mut self, kill: u64, number: usize, seed: u64) -> Result<String> {
        let mut random = Random::new(seed);
        let blow = match VICTIMS[number] {
            Victim::Home => Blow::Node(1),
            Victim::Other => Blow::Node(2),
            Victim::Edge => Blow::Node(0),
            Victim::Directory if random.chance(50) => Blow::Member(self.scene.etcd.leader()?),
            Victim::Directory => Blow::Member(random.index(3)),
            Victim::Cable => Blow::Cable,
        };
        let pause = Duration::from_micros(random.below(PAUSE_US));
        let kind = usize::try_from(kill)? % KINDS.len();
        let (board, doors) = (Board::default(), self.doors());
        let name = |who: &str| format!("k{kill}{who}");
        let mut filers: Vec<Filer> =
            (0..FILERS).map(|n| Filer::new(&board, name(&format!("f{n}")), random.draw())).collect();
        let mut makers = ["a", "h", "u"].map(|who| Maker::new(&board, name(who), random.draw()));
        let scene = &mut self.scene;
        let (during, recovered) = std::thread::scope(|threads| {
            filers.iter_mut().for_each(|filer| drop(threads.spawn(move || filer.work(doors[0]))));
            let [above, at_home, user] = &mut makers;
            threads.spawn(move || above.administers(doors[0]));
            threads.spawn(move || at_home.administers(doors[1]));
            threads.spawn(move || user.uses(doors[0]));
            let struck = happens(scene, &board, blow, (pause, kind), &mut random);
            board.end();
            struck
        })?;
        board.nobody_failed()?;
        filers.into_iter().for_each(|filer| self.ledger.join(filer.ledger));
        makers.into_iter().for_each(|maker| self.names.join(maker.names));
        let summary = &mut self.summary;
        summary.kills[number] += 1;
        for (sum, count) in summary.during[number].iter_mut().zip(during) {
            *sum += u64::from(count > 0);
        }
        let told = board.told();
        for (sums, counts) in
            [&mut summary.done, &mut summary.open, &mut summary.refused].into_iter().zip(told)
        {
            sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
        let (messages, names) = self.all_is_as_told(usize::try_from(kill % 3)?)?;
        self.summary.messages += messages;
        self.sweep()?;
        let [done, open, refused] = told;
        Ok(format!(
            "after {pause:?}, while {during:?} were under way; done {done:?}, open {open:?}, refused {refused:?}; all \
             went on after {recovered:?}; {messages} messages and {names} names are as was told"
        ))
    }

    /// Waits until nothing is under way, and looks for all messages at a node, and for all names at all of them.
    fn all_is_as_told(&mut self, node: usize) -> Result<(u64, usize)> {
        let deadline = Instant::now() + RECOVERY_MAX;
        let doors = self.doors();
        loop {
            let ledger = &mut self.ledger;
            let found = self.scene.at_rest().and_then(|()| ledger.verify(doors[node], USER));
            let found = found.and_then(|messages| Ok((messages, self.same_names()?)));
            match found {
                Ok((messages, names)) => {
                    self.names.fit(&names)?;
                    return Ok((messages, names.len()));
                }
                // Somebody who has hung up is still at work for as long as a lost answer is asked for.
                Err(error) => ensure!(Instant::now() < deadline, "{error:#}"),
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The names, which are the same at all nodes: for the administrator, and, as they show them, for the user.
    fn same_names(&self) -> Result<BTreeSet<String>> {
        let doors = self.doors();
        let names = maker::of_administrator(doors[0])?;
        self.names.fit(&names)?;
        for (place, door) in doors.into_iter().enumerate() {
            let there = maker::of_administrator(door)?;
            let differs: Vec<&String> = names.symmetric_difference(&there).collect();
            ensure!(differs.is_empty(), "{differs:?} are listed at the frontend or at node {place} alone");
            let shown = maker::of_user(door)?;
            let below: BTreeSet<String> =
                shown.iter().filter_map(|name| name.strip_prefix("Shared/")).map(str::to_owned).collect();
            let shared: BTreeSet<String> =
                names.iter().filter(|name| !name.starts_with("user/")).cloned().collect();
            let differs: Vec<&String> = below.symmetric_difference(&shared).collect();
            ensure!(differs.is_empty(), "{differs:?} are not the same for the user at node {place}");
            let missing = MAILBOXES.iter().find(|name| !shown.contains(**name));
            ensure!(missing.is_none(), "{missing:?} is not listed for the user at node {place}");
        }
        Ok(names)
    }

    /// Takes away all messages, and all names that were made.
    fn sweep(&mut self) -> Result<()> {
        let front = self.doors()[0];
        let mut user = Imap::login(front, USER, PASSWORD)?;
        for mailbox in MAILBOXES {
            user.ok(&format!("SELECT {}", quote(mailbox)))?;
            user.ok("UID STORE 1:* +FLAGS.SILENT (\\Deleted)")?;
            user.ok("EXPUNGE")?;
        }
        self.ledger.was_emptied();
        let mut administrator = Imap::login(front, ADMINISTRATOR, PASSWORD)?;
        for name in self.names.all(Fate::There) {
            administrator.ok(&format!("DELETE {}", quote(&name)))?;
            self.names.know(&name, Fate::Gone);
        }
        // What was left open and is there is known by that; what is not may still come.
        let listed = maker::of_administrator(front)?;
        for name in self.names.all(Fate::Open) {
            if listed.contains(&name) {
                let deleted = administrator.command(&format!("DELETE {}", quote(&name)))?;
                if deleted.status == Status::Ok {
                    self.summary.resolved[0] += 1;
                    self.names.know(&name, Fate::Gone);
                }
            }
        }
        self.names.forget();
        Ok(())
    }

    /// Every name that was left open is there in the end, or not.
    fn resolve(&mut self) -> Result<()> {
        let deadline = Instant::now() + RESOLVED_MAX;
        let mut administrator = Imap::login(self.doors()[0], ADMINISTRATOR, PASSWORD)?;
        let listed = self.same_names()?;
        for name in self.names.all(Fate::Open) {
            let mut before = listed.contains(&name);
            loop {
                let made = administrator.command(&format!("CREATE {}", quote(&name)))?;
                match (before, made.status, made.code("ALREADYEXISTS").is_some()) {
                    (true, Status::No, true) | (false, Status::Ok, _) => {
                        self.summary.resolved[usize::from(!before)] += 1;
                        self.names.know(&name, Fate::There);
                        break;
                    }
                    _ => ensure!(
                        Instant::now() < deadline,
                        "{name}, listed: {before}, is answered {}",
                        made.text
                    ),
                }
                std::thread::sleep(Duration::from_millis(500));
                before = self.same_names()?.contains(&name);
            }
        }
        self.same_names()?;
        self.sweep()
    }
}

/// Something happens while all are at work, behind a pause, when a command of a kind is under way, and is mended. Gives what
/// was under way, and when all went on.
fn happens(
    scene: &mut Scene,
    board: &Board,
    blow: Blow,
    (pause, kind): (Duration, usize),
    random: &mut Random,
) -> Result<(Counts, Duration)> {
    // Everybody has begun.
    wait(board, "nobody begins", |told| told.iter().all(|count| *count > 0))?;
    std::thread::sleep(pause);
    let deadline = Instant::now() + RECOVERY_MAX;
    let during = loop {
        let under_way = board.under_way();
        if under_way[kind] > 0 {
            break under_way;
        }
        ensure!(Instant::now() < deadline, "there is no {:?}", KINDS[kind]);
        std::thread::sleep(Duration::from_micros(100));
    };
    let struck = Instant::now();
    scene.strike(blow)?;
    scene.mend(blow, random)?;
    let [before, _, _] = board.told();
    let goes_on = |told: &Counts| told.iter().zip(before).all(|(now, before)| *now > before + 1);
    wait(board, "it does not go on", goes_on)?;
    Ok((during, struck.elapsed()))
}

fn wait(board: &Board, why: &str, until: impl Fn(&Counts) -> bool) -> Result<()> {
    let deadline = Instant::now() + RECOVERY_MAX;
    while !until(&board.told()[0]) {
        board.nobody_failed()?;
        ensure!(Instant::now() < deadline, "{why}: {:?}", board.told());
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

impl Scene {
    /// Fails while messages are on their way to another home.
    fn at_rest(&self) -> Result<()> {
        for node in &self.murder.nodes {
            let listed = node.cli(&["transit", "list", "--json"], b"")?;
            ensure!(listed.status.success() && listed.text().trim() == "[]", "{}", listed.text());
        }
        Ok(())
    }
}
