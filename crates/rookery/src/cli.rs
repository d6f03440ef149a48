//! The command line's grammar and help texts.

mod cluster;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub(crate) use cluster::{
    DirectoryCommand, MoveArgs, MoveCommand, MoveOf, NodeCommand, OfNode, PlacementCommand, TransitCommand,
};

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed; the reason is on standard error
  2  the command line or the configuration is wrong
  3  not found: no such user, mailbox or file
  4  no server runs on this data folder
  5  it exists already
  6  the data folder is in use by another process
  7  the check found damage";

/// A mail store: IMAP and LMTP in one program.
#[derive(Debug, Parser)]
#[command(name = "rookery", version, about, after_help = EXIT_CODES, max_term_width = 100)]
pub(crate) struct Cli {
    /// The configuration file [default: $ROOKERY_CONFIG, ./rookery.toml, /etc/rookery/rookery.toml, or built-in
    /// defaults].
    #[arg(long, short = 'c', global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the server in the foreground.
    Serve,
    /// Run a server with an account full of mail, and say how to connect.
    Demo(Demo),
    /// Accounts: add, list, change the password, suspend, resume, delete.
    #[command(subcommand)]
    User(User),
    /// Aliases and catch-alls: add, list, delete.
    #[command(subcommand)]
    Alias(Alias),
    /// Mailboxes of an account: list, create, delete, rename, describe.
    #[command(subcommand)]
    Mailbox(Mailbox),
    /// Quotas: what accounts and mailboxes hold and may hold.
    #[command(subcommand)]
    Quota(Quota),
    /// Who may do what with a mailbox: show, set, delete.
    #[command(subcommand)]
    Acl(Acl),
    /// Domains: list, add, delete.
    #[command(subcommand)]
    Domain(Domain),
    /// Groups of users, which ACLs name as `group:NAME`.
    #[command(subcommand)]
    Group(Group),
    /// Bring mail in from files.
    #[command(subcommand)]
    Import(Import),
    /// Bring back what was deleted, while `store.retention_days` keeps it.
    #[command(subcommand)]
    Undelete(Undelete),
    /// Write accounts into a folder of plain files, while the server runs.
    Export(Export),
    /// Make accounts anew from an export.
    Restore(Restore),
    /// Verify everything that is stored: through the running server, or offline if none runs.
    Check(Check),
    /// Nodes of a cluster: list, show, let a new one join, say which take clients and hold accounts.
    #[command(subcommand)]
    Node(NodeCommand),
    /// Where new accounts are placed in a cluster, by their domain.
    #[command(subcommand)]
    Placement(PlacementCommand),
    /// Even out what the nodes of a cluster hold.
    Balance {
        /// Only say which accounts would move.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        json: Json,
    },
    /// The directory of a cluster as a whole: status, export, import, move into etcd.
    #[command(subcommand)]
    Directory(DirectoryCommand),
    /// Accounts that go to other nodes while they are used: begin, list, stop, give up.
    Move(MoveArgs),
    /// Messages on their way to mailboxes of other nodes: list them, give a move up.
    #[command(subcommand)]
    Transit(TransitCommand),
    /// Make this server, which has no accounts and does not run, a node of a cluster.
    Join {
        /// What `rookery node token` has printed at the node with the directory.
        token: String,
    },
    /// Show or check the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Let the installed program take the running server's place. Clients that connect meanwhile wait.
    Restart,
    /// Make the running server read its configuration and certificates again, and say what needs a restart.
    Reload,
    /// Whether the server runs, and what it holds.
    Status(Json),
    /// What the running server does now: connections, logins, messages, commands, again and again.
    Top(Top),
}

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Json {
    /// Print JSON, for programs.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Top {
    /// Seconds between two looks.
    #[arg(long, default_value_t = 2)]
    pub(crate) interval: u64,
    /// How often to look [default: until interrupted].
    #[arg(long)]
    pub(crate) count: Option<u64>,
    #[command(flatten)]
    pub(crate) json: Json,
}

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Where the demo's data lives; it is kept [default: a temporary folder that is removed].
    pub(crate) folder: Option<PathBuf>,
    /// Several servers that look like one, instead of a single one.
    #[arg(long, value_enum, value_name = "KIND")]
    pub(crate) murder: Option<Arrangement>,
}

/// How the nodes of a demo share the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Arrangement {
    /// Two backends with the mail, and a frontend for the clients.
    Discrete,
    /// Three nodes that all do both.
    Unified,
}

#[derive(Debug, Args)]
pub(crate) struct NewPassword {
    /// Take the password from the first line of standard input instead of asking for it.
    #[arg(long)]
    pub(crate) password_stdin: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum User {
    /// Make an account with INBOX and the usual mailboxes.
    Add {
        /// `joe`, or `joe@example.org`.
        name: String,
        /// Without mailboxes: somebody who only logs in, an administrator.
        #[arg(long, conflicts_with = "node")]
        login_only: bool,
        /// At home at this node of the cluster [default: as placement decides].
        #[arg(long, value_name = "NAME")]
        node: Option<String>,
        #[command(flatten)]
        password: NewPassword,
    },
    /// All accounts.
    List(Json),
    /// Change a password.
    Passwd {
        /// Whose.
        name: String,
        #[command(flatten)]
        password: NewPassword,
    },
    /// Close an account to its user. Mail still comes in; sessions that are open end.
    Suspend {
        /// Whose.
        name: String,
    },
    /// Open a suspended account again.
    Resume {
        /// Whose.
        name: String,
    },
    /// Delete an account with all its mail.
    Delete {
        /// Whose.
        name: String,
        /// Do not ask whether this is meant.
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Alias {
    /// Make an alias, or lead it elsewhere.
    Add {
        /// `sales`, `sales@example.org`, or `@example.org` for every address of the domain that is nobody's.
        name: String,
        /// Users or aliases of this server.
        #[arg(required = true, value_name = "TARGET")]
        targets: Vec<String>,
    },
    /// All aliases.
    List {
        /// Of this domain only.
        #[arg(long)]
        domain: Option<String>,
        #[command(flatten)]
        json: Json,
    },
    /// Delete an alias.
    Delete {
        /// Its name.
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Mailbox {
    /// All mailboxes of an account.
    List {
        /// Whose.
        user: String,
        #[command(flatten)]
        json: Json,
    },
    /// Make a mailbox.
    Create {
        /// Whose.
        user: String,
        /// Its name, such as `Lists/rust`.
        name: String,
        /// What it is for: Archive, Drafts, Flagged, Junk, Sent, Trash or All.
        #[arg(long, value_name = "USE")]
        special_use: Option<String>,
    },
    /// Delete a mailbox with its mail. Mailboxes below it stay.
    Delete {
        /// Whose.
        user: String,
        /// Its name.
        name: String,
        /// Do not ask whether this is meant.
        #[arg(long)]
        yes: bool,
    },
    /// Rename a mailbox with all below it.
    Rename {
        /// Whose.
        user: String,
        /// Its name now.
        from: String,
        /// Its name then.
        to: String,
    },
    /// Everything about one mailbox.
    Info {
        /// Whose.
        user: String,
        /// Its name.
        name: String,
        #[command(flatten)]
        json: Json,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Quota {
    /// What quota roots hold and may hold.
    Show {
        /// Of this account or mailbox, as administrators write it: `user/joe`, `user/joe/Archive`, `team`
        /// [default: all].
        name: Option<String>,
        #[command(flatten)]
        json: Json,
    },
    /// Set all limits of a quota root: a mailbox and what is below it without a root of its own.
    Set {
        /// Its name, as administrators write it: `user/joe` for the account, `user/joe/Archive`, `team`.
        name: String,
        #[command(flatten)]
        limits: QuotaLimits,
        /// Take all limits away: it is a quota root no more.
        #[arg(long, conflicts_with = "QuotaLimits")]
        none: bool,
        #[command(flatten)]
        json: Json,
    },
}

/// What is not given is not limited.
#[derive(Clone, Copy, Debug, Args)]
#[group(multiple = true)]
pub(crate) struct QuotaLimits {
    /// Octets of all messages; `K`, `M`, `G` and `T` stand for powers of 1024.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) storage: Option<u64>,
    /// Messages.
    #[arg(long, value_name = "NUMBER")]
    pub(crate) messages: Option<u64>,
    /// Mailboxes.
    #[arg(long, value_name = "NUMBER")]
    pub(crate) mailboxes: Option<u64>,
}

/// Reads sizes such as `1500` and `200M`.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text.get(digits.len()..).unwrap_or("").to_ascii_uppercase().as_str() {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return Err("the unit is K, M, G or T".to_owned()),
    };
    let number: u64 = digits.parse().map_err(|_| "that is no number".to_owned())?;
    number.checked_mul(1 << shift).filter(|n| *n <= i64::MAX as u64).ok_or("that is too large".to_owned())
}

#[derive(Debug, Subcommand)]
pub(crate) enum Acl {
    /// All entries of a mailbox.
    Show {
        /// As administrators name it: `user/joe/Archive`, `team`, with `@domain` if it is another one.
        name: String,
        #[command(flatten)]
        json: Json,
    },
    /// Give rights.
    Set {
        /// Of which mailbox.
        name: String,
        /// Whom: `joe`, `anyone`, `group:staff`; with `-` before it the rights are taken away from them.
        #[arg(allow_hyphen_values = true)]
        identifier: String,
        /// Letters of `lrswipkxtean`; with `+` before them more rights than before, with `-` fewer.
        #[arg(allow_hyphen_values = true)]
        rights: String,
    },
    /// Take an entry away.
    Delete {
        /// Of which mailbox.
        name: String,
        /// Whose.
        #[arg(allow_hyphen_values = true)]
        identifier: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Domain {
    /// All domains.
    List(Json),
    /// Make a domain. It is also made with its first account.
    Add {
        /// Its name.
        name: String,
    },
    /// Forget a domain that has no accounts, aliases and groups.
    Delete {
        /// Its name.
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Group {
    /// All groups of a domain.
    List {
        /// Which domain [default: the default domain].
        #[arg(long)]
        domain: Option<String>,
        #[command(flatten)]
        json: Json,
    },
    /// Make a group.
    Add {
        /// `staff`, or `staff@example.org`.
        name: String,
    },
    /// Forget a group. Rights that were given to it stay in the lists, for nobody.
    Delete {
        /// Which.
        name: String,
    },
    /// Who is in a group.
    Members {
        /// Which.
        name: String,
        #[command(flatten)]
        json: Json,
    },
    /// Put a user into a group.
    Join {
        /// Which group.
        name: String,
        /// Whom.
        user: String,
    },
    /// Take a user out of a group.
    Leave {
        /// Which group.
        name: String,
        /// Whom.
        user: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Import {
    /// A Maildir with its folders: `.Folder.Sub` (Maildir++) or nested Maildirs. Flags and dates are kept.
    Maildir(ImportArgs),
    /// An mbox file. Flags (Status, X-Status) and dates are kept.
    Mbox(ImportArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// Into whose account.
    pub(crate) user: String,
    /// The folder or file. The server reads it, so it must be readable for the server's user.
    pub(crate) path: PathBuf,
    /// Into this mailbox, or below it for a Maildir's folders [default: INBOX].
    #[arg(long, value_name = "NAME")]
    pub(crate) into: Option<String>,
    #[command(flatten)]
    pub(crate) json: Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Undelete {
    /// Deleted accounts that are still kept.
    Users(Json),
    /// Deleted mailboxes and expunged messages of an account that are still kept.
    List {
        /// Whose.
        user: String,
        #[command(flatten)]
        json: Json,
    },
    /// Bring expunged messages back into their mailbox. They get new UIDs.
    Messages {
        /// Whose.
        user: String,
        /// Which mailbox.
        mailbox: String,
        /// Only what was expunged in the last so many hours.
        #[arg(long, value_name = "HOURS")]
        within: Option<u64>,
    },
    /// Bring a deleted mailbox back with its messages.
    Mailbox {
        /// Whose.
        user: String,
        /// The name it had.
        name: String,
        /// The name it gets, if the old one is taken.
        #[arg(long, value_name = "NAME")]
        into: Option<String>,
    },
    /// Bring a deleted account back with all its mail. Its password has to be set.
    User {
        /// The name it had.
        user: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Export {
    /// Where to; one folder for each account. Exporting there again writes only what is new. The server writes it, so
    /// it must be writable for the server's user.
    pub(crate) folder: PathBuf,
    /// Only this user's account [default: all accounts].
    #[arg(long)]
    pub(crate) user: Option<String>,
    #[command(flatten)]
    pub(crate) json: Json,
}

#[derive(Debug, Args)]
pub(crate) struct Restore {
    /// What `rookery export` has written.
    pub(crate) folder: PathBuf,
    /// Only this user's account [default: all accounts].
    #[arg(long)]
    pub(crate) user: Option<String>,
    #[command(flatten)]
    pub(crate) json: Json,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Check {
    /// Only this user's account, through the running server.
    #[arg(long, conflicts_with = "repair")]
    pub(crate) user: Option<String>,
    /// Rebuild what can be derived, and set aside what cannot. Destroys nothing.
    #[arg(long)]
    pub(crate) repair: bool,
    /// Instead, with the server stopped: of each account that is here, or was left behind here, what its records come to.
    /// An account that has moved and was not used since has the same digest at both nodes.
    #[arg(long, conflicts_with_all = ["repair", "user"])]
    pub(crate) digests: bool,
    #[command(flatten)]
    pub(crate) json: Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Every setting with its value and where that comes from.
    Show,
    /// Find mistakes in a configuration.
    Check {
        /// The file [default: the one that `serve` would take].
        file: Option<PathBuf>,
    },
    /// What every setting means, with its type and default, as Markdown: docs/settings.md.
    Reference,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_grammar_is_sound_and_options_may_stand_on_either_side() {
        Cli::command().debug_assert();
        for words in ["rookery --config x serve", "rookery serve --config x", "rookery serve -c x"] {
            let cli = Cli::try_parse_from(words.split(' ')).unwrap();
            assert_eq!(cli.config, Some("x".into()));
        }
        assert!(Cli::try_parse_from(["rookery", "import", "maildir", "joe", "dir"]).is_ok());
        assert!(Cli::try_parse_from(["rookery", "quota", "set", "user/joe", "--storage", "2G"]).is_ok());
        assert!(
            Cli::try_parse_from(["rookery", "quota", "set", "team", "--none", "--messages", "1"]).is_err()
        );
        assert_eq!((size("10K"), size("7")), (Ok(10 << 10), Ok(7)));
        assert!(["", "K", "1.5G", "9999999T", "-1", "3Q"].iter().all(|text| size(text).is_err()));
        assert!(Cli::try_parse_from(["rookery", "user", "add", "joe", "--password-stdin"]).is_ok());
    }
}
