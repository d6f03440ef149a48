//! A client: at any node, it does something, hears what became of it, and holds the cluster to it.

use crate::Plan;
use crate::model::{AccountState, BoxState, Instance, Known, OwnBox, State};
use crate::node::Live;
use crate::ops::{self, Answer, Fact, Place, Question, Work};
use crate::rng::Rng;
use crate::world::World;
use rookery_directory::{AccountFilter, Directory};
use rookery_route::{RegistrarError, RouteError};
use rookery_types::{AccountName, MailboxPath};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

/// A client waits so long for an answer.
const PATIENCE: Duration = Duration::from_secs(40);
/// Messages of its own that a client keeps, about.
const MESSAGES_MAX: usize = 60;
/// Mailboxes of its own.
const BOXES_MAX: usize = 4;
/// Accounts of its own.
const ACCOUNTS: u64 = 3;

pub(crate) struct Client {
    pub(crate) number: u64,
    pub(crate) known: Known,
    pub(crate) rng: Rng,
    made: u64,
    /// It keeps to messages of the stable accounts, and to one node.
    steady: bool,
    /// The account that it asks for something of.
    about: String,
}

/// An account that clients neither make nor delete.
pub(crate) fn stable(n: usize) -> String {
    format!("user/s{n}@a.test")
}

fn name(text: &str) -> Option<AccountName> {
    AccountName::parse(text).ok()
}

impl Client {
    pub(crate) fn new(number: u64, plan: &Plan) -> Client {
        let steady = plan.step.is_some();
        let own = |n: u64| (format!("user/v{number}-{n}@a.test"), AccountState::Absent);
        let known = Known { accounts: (0..ACCOUNTS).map(own).collect(), ..Known::default() };
        let rng = Rng::new(plan.seed, 0x100 + number);
        Client { number, known, rng, made: 0, steady, about: String::new() }
    }

    /// Works until the time is over.
    pub(crate) async fn run(mut self, world: Arc<World>) -> Client {
        while !world.is_over() {
            match self.steady {
                true => self.wait_for_a_move(&world).await,
                false => {
                    let pause = match self.rng.one_in(20) {
                        true => self.rng.micros(0, 1_500_000),
                        false => self.rng.micros(0, 60_000),
                    };
                    sleep(pause).await;
                }
            }
            self.turn(&world).await;
            world.did();
        }
        self
    }

    /// Short pauses while somebody is to fail at a step of a move; hardly any if that is the node at which it waits.
    async fn wait_for_a_move(&mut self, world: &World) {
        let (long, short) = (self.rng.micros(100_000, 900_000), self.rng.micros(0, 1_000));
        let mut armed = world.steps.armed();
        let _ = timeout(long, armed.wait_for(|armed| *armed)).await;
        sleep(if world.steps.is_for_sessions() { short } else { short * 20 }).await;
    }

    async fn turn(&mut self, world: &Arc<World>) {
        if self.steady {
            return match self.rng.below(10) {
                0..4 => self.append(world).await,
                4..6 => self.keyword(world).await,
                6 => self.expunge(world).await,
                7 => self.transfer(world, true).await,
                _ => self.read(world).await,
            };
        }
        match self.rng.below(100) {
            0..22 => self.append(world).await,
            22..32 => self.keyword(world).await,
            32..40 => self.expunge(world).await,
            40..48 => self.transfer(world, false).await,
            48..64 => self.transfer(world, true).await,
            64..72 => self.read(world).await,
            72..77 => self.make_box(world).await,
            77..80 => self.drop_box(world).await,
            80..83 => self.rename_box(world).await,
            83..88 => self.share(world).await,
            88..94 => self.account(world).await,
            94..97 => self.leave(world).await,
            _ => self.list(world).await,
        }
    }

    /// Asks at some node that is up. `None`: there is none, or it is gone.
    async fn at_some<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
        &mut self,
        world: &Arc<World>,
        work: impl FnOnce(Arc<Live>) -> F,
    ) -> Option<T> {
        let node = match self.steady {
            true => world.steps.edge(),
            false => self.rng.index(world.machines.len()),
        };
        let machine = world.machines.get(node)?;
        let live = machine.live()?;
        let _asking = world.asking(node, &self.about);
        let mut stalled = machine.stalled();
        let _ = stalled.wait_for(|stalled| !stalled).await;
        let (tell, told) = oneshot::channel();
        let asked = work(Arc::clone(&live));
        live.spawn(async move {
            let _ = tell.send(asked.await);
        });
        let answer = timeout(PATIENCE, told).await.ok()?.ok();
        let _ = stalled.wait_for(|stalled| !stalled).await;
        // What a node says that has lost its power is not heard.
        answer.filter(|_| live.alive.load(std::sync::atomic::Ordering::Relaxed))
    }

    async fn ask(&mut self, world: &Arc<World>, place: &Place, work: Work) -> Answer {
        let question = Question { place: place.clone(), work };
        let text = format!("{} {:?}", question.place, question.work);
        world.trace.say(format_args!("c{} {text}", self.number));
        self.about.clone_from(&place.account);
        let answer =
            self.at_some(world, |live| async move { ops::from_anywhere(&live, question).await }).await;
        self.about.clear();
        let answer = answer.unwrap_or_else(|| Answer::Unknown("the node is gone".to_owned()));
        world.trace.say(format_args!("c{} {text}: {}", self.number, shown(&answer)));
        answer
    }

    /// A place where messages may go: an INBOX, or a mailbox of its own. Whether it is there and open to others for
    /// sure.
    fn any_place(&mut self, world: &World) -> (Place, bool) {
        let own: Vec<(Place, bool)> = self
            .known
            .boxes
            .iter()
            .filter(|own| own.state == BoxState::There)
            .map(|own| (own.place.clone(), own.shared == Some(true)))
            .collect();
        let at_own = self.rng.one_in(2);
        match self.rng.pick(&own) {
            Some(own) if at_own => own.clone(),
            _ => {
                // The account that moves, mostly.
                let at = self.rng.index(world.stable);
                let account = stable(if self.steady && self.rng.one_in(2) { 0 } else { at });
                (Place { account, path: "INBOX".to_owned() }, true)
            }
        }
    }

    fn one(&mut self) -> Option<(usize, Place, u32)> {
        let sure = self.known.sure();
        let at = *self.rng.pick(&sure)?;
        let one = self.known.instances.get(at)?;
        match &one.state {
            State::At(place) => Some((at, place.clone(), one.uid?)),
            _ => None,
        }
    }

    async fn append(&mut self, world: &Arc<World>) {
        if self.known.sure().len() >= MESSAGES_MAX {
            return;
        }
        let (place, _) = self.any_place(world);
        let token = world.new_token();
        let keywords: Vec<String> =
            (0..self.rng.below(3)).map(|n| format!("$a{}", (token + n) % 5)).collect();
        let answer = self.ask(world, &place, Work::Append(token, keywords.clone())).await;
        let keywords = Some(keywords.into_iter().collect());
        self.arrived(world, answer, token, place, keywords);
    }

    /// A message was put somewhere, or not.
    fn arrived(
        &mut self,
        world: &World,
        answer: Answer,
        token: u64,
        place: Place,
        keywords: Option<BTreeSet<String>>,
    ) {
        match answer {
            Answer::Done(Fact { uid: Some(uid), .. }) => {
                self.known.add(Instance {
                    token,
                    state: State::At(place),
                    uid: Some(uid),
                    keywords,
                    epochs: None,
                });
            }
            Answer::Done(_) | Answer::Unknown(_) => {
                self.known.add(Instance {
                    token,
                    state: State::Maybe(place),
                    uid: None,
                    keywords: None,
                    epochs: None,
                });
            }
            Answer::NoSuch(what) => self.no_such(world, &place, &what),
            Answer::No(_) => {}
        }
    }

    /// It was said that there is none of something that is there.
    fn no_such(&self, world: &World, what: &Place, answer: &str) {
        world
            .trace
            .wrong(format_args!("client {} was told that {what} does not exist: {answer}", self.number));
    }

    async fn keyword(&mut self, world: &Arc<World>) {
        let Some((at, place, uid)) = self.one() else { return };
        let word = format!("$k{}", self.rng.below(6));
        let answer = self.ask(world, &place, Work::Keyword(uid, word.clone())).await;
        let Some(one) = self.known.instances.get_mut(at) else { return };
        match answer {
            Answer::Done(_) => drop(one.keywords.as_mut().map(|words| words.insert(word))),
            Answer::Unknown(_) => one.keywords = None,
            Answer::NoSuch(what) => self.no_such(world, &place, &what),
            Answer::No(_) => {}
        }
    }

    async fn expunge(&mut self, world: &Arc<World>) {
        let Some((at, place, uid)) = self.one() else { return };
        let answer = self.ask(world, &place, Work::Expunge(uid)).await;
        let Some(one) = self.known.instances.get_mut(at) else { return };
        match answer {
            Answer::Done(_) => one.state = State::Gone(place),
            Answer::Unknown(_) => one.state = State::Maybe(place),
            Answer::NoSuch(what) => self.no_such(world, &place, &what),
            Answer::No(_) => {}
        }
    }

    async fn transfer(&mut self, world: &Arc<World>, moves: bool) {
        let Some((at, place, uid)) = self.one() else { return };
        let (to, is_open) = self.any_place(world);
        let Some(one) = self.known.instances.get(at).cloned() else { return };
        if to == place || self.known.has(one.token, &to) {
            return;
        }
        let epochs = world.epochs(&place.account, &to.account);
        let work = if moves { Work::Move(uid, to.clone()) } else { Work::Copy(uid, to.clone()) };
        let answer = self.ask(world, &place, work).await;
        if let Answer::NoSuch(what) = &answer
            && (is_open || place.account == to.account)
        {
            self.no_such(world, &to, what);
        }
        if !moves {
            if !matches!(answer, Answer::NoSuch(_)) {
                self.arrived(world, answer, one.token, to, one.keywords);
            }
            return;
        }
        let Some(one) = self.known.instances.get_mut(at) else { return };
        match answer {
            Answer::Done(Fact { uid: Some(uid), .. }) => {
                one.state = State::Gone(place);
                let keywords = one.keywords.clone();
                let moved = Instance {
                    token: one.token,
                    state: State::At(to),
                    uid: Some(uid),
                    keywords,
                    epochs: None,
                };
                self.known.add(moved);
            }
            Answer::Done(_) | Answer::Unknown(_) => {
                // Between accounts of one home what has arrived goes, in a second step.
                one.state = match place.account != to.account && epochs.is_none() {
                    true => State::Both(place, to),
                    false => State::Either(place, to),
                };
                one.epochs = epochs;
                one.keywords = None;
                self.known.forget_gone();
            }
            Answer::No(_) | Answer::NoSuch(_) => {}
        }
    }

    async fn read(&mut self, world: &Arc<World>) {
        let (place, _) = self.any_place(world);
        let so_far = world.seen_so_far();
        match self.ask(world, &place, Work::Read).await {
            Answer::Done(Fact { seen: Some(seen), .. }) => {
                world.observe(&place, &seen, &so_far);
                for one in &self.known.instances {
                    let there =
                        seen.messages.iter().filter(|message| message.token == Some(one.token)).count();
                    let is_well = match &one.state {
                        State::At(at) if *at == place => there == 1,
                        State::Gone(at) if *at == place => there == 0,
                        _ => true,
                    };
                    if !is_well {
                        world.trace.wrong(format_args!("{place} has {there} of {one:?}"));
                    }
                }
            }
            Answer::NoSuch(what) => self.no_such(world, &place, &what),
            _ => {}
        }
    }

    async fn make_box(&mut self, world: &Arc<World>) {
        let there = self.known.boxes.iter().filter(|own| own.state == BoxState::There).count();
        if there >= BOXES_MAX {
            return;
        }
        self.made += 1;
        let account = stable(self.rng.index(world.stable));
        let place = Place { account, path: format!("c{}-{}", self.number, self.made) };
        let (state, shared) = match self.ask(world, &place, Work::Make).await {
            Answer::Done(_) => (BoxState::There, Some(false)),
            Answer::Unknown(_) => (BoxState::Unknown, None),
            Answer::NoSuch(what) => return self.no_such(world, &place, &what),
            Answer::No(_) => return,
        };
        self.known.boxes.push(OwnBox { place, state, shared });
    }

    /// A mailbox of its own of whose messages all is known.
    fn own_box(&mut self) -> Option<usize> {
        let known = &self.known;
        let all = known.boxes.iter().enumerate();
        let sure = all.filter(|(_, own)| own.state == BoxState::There && !known.is_unsure_of(&own.place));
        let sure: Vec<usize> = sure.map(|(at, _)| at).collect();
        self.rng.pick(&sure).copied()
    }

    async fn drop_box(&mut self, world: &Arc<World>) {
        let Some(at) = self.own_box() else { return };
        let Some(place) = self.known.boxes.get(at).map(|own| own.place.clone()) else { return };
        let (state, certain, published) = match self.ask(world, &place, Work::Drop).await {
            Answer::Done(fact) => (BoxState::Gone, true, !fact.unpublished),
            Answer::Unknown(_) => (BoxState::Unknown, false, false),
            Answer::NoSuch(what) => return self.no_such(world, &place, &what),
            Answer::No(_) => return,
        };
        if let Some(own) = self.known.boxes.get_mut(at) {
            own.state = state;
            // What is still to be published may be listed as it was.
            own.shared = own.shared.filter(|_| published);
        }
        self.known.relocate(&place, None, certain);
    }

    async fn rename_box(&mut self, world: &Arc<World>) {
        let Some(at) = self.own_box() else { return };
        let Some(place) = self.known.boxes.get(at).map(|own| own.place.clone()) else { return };
        self.made += 1;
        let to = Place { path: format!("c{}-{}", self.number, self.made), ..place.clone() };
        let (certain, published) = match self.ask(world, &place, Work::Rename(to.path.clone())).await {
            Answer::Done(fact) => (true, !fact.unpublished),
            Answer::Unknown(_) => (false, false),
            Answer::NoSuch(what) => return self.no_such(world, &place, &what),
            Answer::No(_) => return,
        };
        self.known.relocate(&place, Some(&to), certain);
        if let Some(own) = self.known.boxes.get_mut(at) {
            own.shared = own.shared.filter(|_| published);
            match certain {
                true => own.place = to,
                false => own.state = BoxState::Unknown,
            }
        }
    }

    async fn share(&mut self, world: &Arc<World>) {
        let Some(at) = self.own_box() else { return };
        let Some(own) = self.known.boxes.get(at) else { return };
        // What was asked of a home that a cut link keeps away may be done later than what is asked now.
        if own.shared.is_none() {
            return;
        }
        let place = own.place.clone();
        let shared = self.rng.one_in(2);
        let answer = self.ask(world, &place, Work::Share(shared)).await;
        let Some(own) = self.known.boxes.get_mut(at) else { return };
        match answer {
            Answer::Done(Fact { unpublished: false, .. }) => own.shared = Some(shared),
            Answer::Done(_) | Answer::Unknown(_) => own.shared = None,
            Answer::NoSuch(what) => self.no_such(world, &place, &what),
            Answer::No(_) => {}
        }
    }

    async fn account(&mut self, world: &Arc<World>) {
        let names: Vec<(String, AccountState)> = self.known.accounts.clone().into_iter().collect();
        let Some((own, state)) = self.rng.pick(&names).cloned() else { return };
        let Some(account) = name(&own) else { return };
        let number = self.number;
        let verb = match state {
            AccountState::Absent => "create",
            AccountState::There if self.rng.one_in(2) => return self.mail(world, &own).await,
            AccountState::There if self.rng.one_in(3) => return self.rename(world, own, &names).await,
            AccountState::There => "delete",
            AccountState::Unknown => return,
        };
        world.trace.say(format_args!("c{number} {verb} {own}"));
        let work = |live: Arc<Live>| async move {
            match verb {
                "create" => live.registrar.create(&account, None).await.map(drop),
                _ => live.registrar.delete(&account).await,
            }
        };
        let answer = self.at_some(world, work).await;
        let text = answer.as_ref().map(|answer| answer.as_ref().err().map(ToString::to_string));
        world.trace.say(format_args!("c{number} {verb} {own}: {text:?}"));
        let next = match (&answer, verb) {
            (Some(Ok(())), "create") => AccountState::There,
            (Some(Ok(())), _) => AccountState::Absent,
            (Some(Err(RegistrarError::Exists(_))), "create") => {
                world.trace.wrong(format_args!("client {number} cannot make {own}, which does not exist"));
                AccountState::Unknown
            }
            (Some(Err(RegistrarError::NotFound(_))), "delete") => {
                world.trace.wrong(format_args!("client {number} was told that {own} does not exist"));
                AccountState::Unknown
            }
            _ => AccountState::Unknown,
        };
        self.known.accounts.insert(own.clone(), next);
        if next == AccountState::There {
            self.find(world, &own).await;
        }
    }

    async fn rename(&mut self, world: &Arc<World>, from: String, names: &[(String, AccountState)]) {
        let free: Vec<&String> =
            names.iter().filter(|(_, state)| *state == AccountState::Absent).map(|(name, _)| name).collect();
        let Some(to) = self.rng.pick(&free).map(|name| (*name).clone()) else { return };
        let (Some(old), Some(new)) = (name(&from), name(&to)) else { return };
        world.trace.say(format_args!("c{} rename {from} {to}", self.number));
        let work = |live: Arc<Live>| async move { live.registrar.rename(&old, new).await };
        let answer = self.at_some(world, work).await;
        let text = answer.as_ref().map(|answer| answer.as_ref().err().map(ToString::to_string));
        world.trace.say(format_args!("c{} rename {from} {to}: {text:?}", self.number));
        let (old, new) = match answer {
            Some(Ok(())) => (AccountState::Absent, AccountState::There),
            Some(Err(RegistrarError::NotFound(_))) => {
                world.trace.wrong(format_args!("client {} was told that {from} does not exist", self.number));
                (AccountState::Unknown, AccountState::Unknown)
            }
            _ => (AccountState::Unknown, AccountState::Unknown),
        };
        self.known.accounts.insert(from, old);
        self.known.accounts.insert(to, new);
    }

    /// An account that is there is found at any node.
    async fn find(&mut self, world: &Arc<World>, own: &str) {
        let Some(account) = name(own) else { return };
        let found = self.at_some(world, |live| async move { live.router.locate(&account).await }).await;
        if let Some(Err(RouteError::NonExistent(_))) = found {
            world.trace.wrong(format_args!("client {} does not find {own}, which was made", self.number));
        }
    }

    async fn mail(&mut self, world: &Arc<World>, own: &str) {
        let place = Place { account: own.to_owned(), path: "INBOX".to_owned() };
        if let Answer::NoSuch(what) =
            self.ask(world, &place, Work::Append(world.new_token(), Vec::new())).await
        {
            self.no_such(world, &place, &what);
        }
    }

    /// An account goes to another node, or stays.
    async fn leave(&mut self, world: &Arc<World>) {
        let place = Place { account: stable(self.rng.index(world.stable)), path: "INBOX".to_owned() };
        let nodes = world.nodes();
        let Some(node) = self.rng.pick(&nodes) else { return };
        let work = if self.rng.one_in(8) { Work::Stay } else { Work::Leave(node.0) };
        if let Answer::NoSuch(what) = self.ask(world, &place, work).await {
            self.no_such(world, &place, &what);
        }
    }

    /// Lists at some node what it has made, read up to date.
    async fn list(&mut self, world: &Arc<World>) {
        let looked = self.at_some(world, |live| async move { listed(&live).await }).await;
        world.trace.say(format_args!("c{} list: {}", self.number, matches!(looked, Some(Ok(_)))));
        let Some(Ok((accounts, published))) = looked else { return };
        for (own, state) in &self.known.accounts {
            let is_well = match state {
                AccountState::There => accounts.contains(own),
                AccountState::Absent => !accounts.contains(own),
                AccountState::Unknown => true,
            };
            if !is_well {
                world.trace.wrong(format_args!("LIST is wrong of {own}, which is {state:?}"));
            }
        }
        for own in &self.known.boxes {
            let is_there = published.contains(&own.place);
            let is_well = match (own.state, own.shared) {
                (BoxState::There, Some(shared)) => is_there == shared,
                (BoxState::Gone, Some(_)) => !is_there,
                _ => true,
            };
            if !is_well {
                world.trace.wrong(format_args!("LIST is wrong of {own:?}: {is_there}"));
            }
        }
    }

    /// In the end: what is unknown of accounts is asked for again, until it is settled.
    pub(crate) async fn settle(&mut self, world: &Arc<World>) {
        let unknown: Vec<String> = self
            .known
            .accounts
            .clone()
            .into_iter()
            .filter(|(_, state)| *state == AccountState::Unknown)
            .map(|(name, _)| name)
            .collect();
        for own in unknown {
            let Some(account) = name(&own) else { continue };
            for _ in 0..100 {
                let account = account.clone();
                let answer = self
                    .at_some(world, |live| async move {
                        let _ = live.directory.barrier().await;
                        live.registrar.delete(&account).await
                    })
                    .await;
                let text = answer.as_ref().map(|answer| answer.as_ref().err().map(ToString::to_string));
                world.trace.say(format_args!("c{} delete at last {own}: {text:?}", self.number));
                if let Some(Ok(()) | Err(RegistrarError::NotFound(_))) = answer {
                    self.known.accounts.insert(own.clone(), AccountState::Absent);
                    break;
                }
                sleep(Duration::from_millis(500)).await;
            }
        }
    }
}

type Listed = (BTreeSet<String>, BTreeSet<Place>);

async fn listed(live: &Live) -> Result<Listed, rookery_directory::DirectoryError> {
    live.directory.barrier().await?;
    let (mut accounts, mut published) = (BTreeSet::new(), BTreeSet::new());
    let page = live.directory.list(AccountFilter::default(), None, 1000).await?;
    for entry in page.entries {
        if entry.state != rookery_directory::AccountState::Active {
            continue;
        }
        let account = entry.name.to_string();
        for one in live.directory.published_of(entry.id, None, 1000).await? {
            let path: &MailboxPath = &one.path;
            published.insert(Place { account: account.clone(), path: path.to_string() });
        }
        accounts.insert(account);
    }
    Ok((accounts, published))
}

/// An answer in a line.
fn shown(answer: &Answer) -> String {
    match answer {
        Answer::Done(Fact { seen: Some(seen), .. }) => {
            format!("{} messages, modseq {}, next {}", seen.messages.len(), seen.modseq, seen.uid_next)
        }
        Answer::Done(fact) => {
            format!("done, uid {:?}{}", fact.uid, if fact.unpublished { ", unpublished" } else { "" })
        }
        Answer::No(why) => format!("no: {why}"),
        Answer::NoSuch(what) => format!("no such: {what}"),
        Answer::Unknown(why) => format!("unknown: {why}"),
    }
}
