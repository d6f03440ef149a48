//! The commands about several nodes: nodes and what they do, moves between them, and the directory that they share.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Json;

/// One node of a cluster.
#[derive(Debug, Args)]
pub(crate) struct OfNode {
    /// Which node [default: the one that is asked].
    #[arg(long, value_name = "NAME")]
    pub(crate) node: Option<String>,
}

/// What a node does of its duties.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum DutyWord {
    On,
    Cordon,
    Drain,
    Off,
}

impl DutyWord {
    /// As it is written.
    pub(crate) fn word(self) -> &'static str {
        match self {
            DutyWord::On => "on",
            DutyWord::Cordon => "cordon",
            DutyWord::Drain => "drain",
            DutyWord::Off => "off",
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// All nodes, as this one sees them.
    List(Json),
    /// Everything about a node.
    Show {
        #[command(flatten)]
        of: OfNode,
        #[command(flatten)]
        json: Json,
    },
    /// Whether a node takes clients. Ends when they have left, where they are sent away.
    Serve {
        /// `on`; `cordon`: no new ones; `drain`: those that are there leave, too, when they are idle; `off`: they leave as
        /// soon as no command of theirs is under way.
        #[arg(value_enum)]
        duty: DutyWord,
        /// Seconds after which the connections of clients are closed that have not left.
        #[arg(long, default_value_t = 60)]
        within: u64,
        #[command(flatten)]
        of: OfNode,
    },
    /// Whether a node holds accounts.
    Hold {
        /// `on`; `cordon`: no new ones; `drain`: those that are there move to other nodes; `off`: none are left.
        #[arg(value_enum)]
        duty: DutyWord,
        #[command(flatten)]
        of: OfNode,
    },
    /// Set the tags of a node, by which placement chooses; none: take them away.
    Tag {
        /// Such as `ssd`.
        tags: Vec<String>,
        #[command(flatten)]
        of: OfNode,
    },
    /// Take a node out of the cluster for good: one that was lost, or that holds no accounts any more.
    Remove {
        /// Which.
        name: String,
        /// It is lost with the accounts that are at home there, which are listed. They stay away until they are restored
        /// from an export at another node.
        #[arg(long)]
        lost: bool,
        /// Do not ask whether this is meant.
        #[arg(long)]
        yes: bool,
    },
    /// Let this node, which holds nothing because its store is older than it was, hold what its store has.
    Accept,
    /// Print a token with which one new node can join. Ask the node with the directory.
    Token {
        /// What the node is to do: take clients (`serve`), hold accounts (`hold`), or both.
        #[arg(long, value_delimiter = ',', default_value = "serve,hold")]
        duties: Vec<String>,
        /// How long the token counts.
        #[arg(long, default_value_t = 24)]
        hours: u64,
    },
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct MoveArgs {
    #[command(subcommand)]
    pub(crate) command: Option<MoveCommand>,
    /// Move all accounts of this node.
    #[arg(long, required = true, value_name = "NODE")]
    pub(crate) from: Option<String>,
    /// To this node [default: those that take accounts].
    #[arg(long, value_name = "NODE")]
    pub(crate) to: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum MoveCommand {
    /// Move a user's account. Clients stay connected; changes wait for a moment.
    User {
        /// Whose.
        name: String,
        /// The node that it goes to.
        #[arg(long, value_name = "NODE")]
        to: String,
        /// Wait until it is there.
        #[arg(long)]
        wait: bool,
    },
    /// Move shared mailboxes: the one of this name at the top, and all below it.
    Shared {
        /// Its name, as administrators see it.
        name: String,
        /// The node that they go to.
        #[arg(long, value_name = "NODE")]
        to: String,
        /// Wait until they are there.
        #[arg(long)]
        wait: bool,
    },
    /// Move the accounts of all users of a domain, and its shared mailboxes.
    Domain {
        /// Its name.
        name: String,
        /// The node that they go to.
        #[arg(long, value_name = "NODE")]
        to: String,
    },
    /// All moves that are under way, at all nodes.
    Status(Json),
    /// Stop a move until it is resumed; what was sent stays there.
    Pause(MoveOf),
    /// Go on with a move that was paused.
    Resume(MoveOf),
    /// Give a move up: the account stays where it is.
    Cancel(MoveOf),
}

#[derive(Debug, Args)]
pub(crate) struct MoveOf {
    /// Whose account.
    pub(crate) name: String,
    /// It is the name of shared mailboxes.
    #[arg(long)]
    pub(crate) shared: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TransitCommand {
    /// Moves out of this node's accounts that are under way: since when, and which node each waits for.
    List(Json),
    /// Have a move end without its messages going, unless they are there already: that is for the other node to say.
    /// Until it has, the messages stay as they are.
    GiveUp {
        /// As `list` has it.
        id: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum PlacementCommand {
    /// What is said.
    List(Json),
    /// Place new accounts of a domain at some nodes alone.
    Set {
        /// Which; `*`: all that nothing is said of.
        domain: String,
        /// Names of nodes, or `tag:` with a tag of nodes (`rookery node tag`).
        #[arg(required = true, value_name = "WHERE")]
        to: Vec<String>,
    },
    /// Place them anywhere.
    Delete {
        /// Which; `*`: all that nothing is said of.
        domain: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum DirectoryCommand {
    /// Where the directory is, how far this node's copy of it is, and what is in it.
    Status(Json),
    /// Write all of it, one line of JSON for each record. It has what passwords are checked against.
    Export {
        /// A new file; none: standard output.
        file: Option<PathBuf>,
    },
    /// Put an export into this directory, which has never had an account.
    Import {
        /// What `export` has written.
        file: PathBuf,
    },
    /// Let the directory, which is at this node, go on in etcd, as `[directory]` in the configuration describes it.
    Promote,
    /// Put this node's copy into etcd, because the directory is lost.
    Rebuild,
}
