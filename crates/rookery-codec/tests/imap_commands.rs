//! Commands as the RFCs show them: each is read, printed, and read again to the same value.
#![allow(clippy::unwrap_used, reason = "a test may stop where it fails")]

use proptest::prelude::*;
use rookery_codec::imap::client::{Literals, encode};
use rookery_codec::imap::command::*;
use rookery_codec::imap::server::{Decoded, Decoder, Limits};
use rookery_codec::imap::{MessageSet, Section, SectionText, StatusItem, WireName};
use rookery_codec::imap::{Secret, Tag};
use rookery_types::{Flag, Keyword, Rights, SequenceSet, SetEnd, SystemFlags, UidValidity};

/// One command; synchronising literals are let through.
fn read(line: &[u8]) -> Result<Tagged, &'static str> {
    let mut decoder = Decoder::new(Limits::LOGGED_IN);
    decoder.push(line);
    loop {
        match decoder.next() {
            Decoded::Continue => {}
            Decoded::Command(tagged) => {
                assert_eq!(decoder.next(), Decoded::NeedMore);
                return Ok(tagged);
            }
            Decoded::Bad(bad) => {
                assert_eq!(decoder.next(), Decoded::NeedMore, "left over behind {line:?}");
                return Err(bad.text);
            }
            other => panic!("{other:?} for {:?}", String::from_utf8_lossy(line)),
        }
    }
}

fn command(line: &str) -> Command {
    read(format!("a {line}\r\n").as_bytes()).unwrap_or_else(|text| panic!("{text}: {line}")).command
}

const GOOD: &str = r##"
CAPABILITY
NOOP
logout
starttls
UNAUTHENTICATE
NAMESPACE
IDLE
CHECK
CLOSE
UNSELECT
EXPUNGE
ID NIL
ID ("name" "sodr" "version" NIL)
ID ()
LOGIN fred blurdybloop
LOGIN "fred" "a\"b\\c"
AUTHENTICATE GSSAPI
AUTHENTICATE EXTERNAL =
AUTHENTICATE PLAIN dGVzdAB0ZXN0AHRlc3Q=
ENABLE CONDSTORE X-GOOD-IDEA
SELECT INBOX
EXAMINE blurdybloop
SELECT INBOX (CONDSTORE)
SELECT INBOX (QRESYNC (67890007 20050715194045000))
SELECT INBOX (QRESYNC (3857529045 20010715194032001 1:198))
SELECT INBOX (QRESYNC (67890007 90060115194045000 41:211,214:541))
SELECT INBOX (QRESYNC (67890007 90060115194045000 1:29997 (5000,7500,9000 15000,22500,27000)))
SELECT INBOX (CONDSTORE QRESYNC (1 2 (1 2)))
CREATE owatagusiam/
CREATE "INBOX.Sent Mail"
CREATE MySpecial (USE (\Drafts \Sent))
CREATE Everything (USE (\All))
CREATE user/joe (PARTITION be2.example)
CREATE Sent (USE (\Sent) PARTITION be2.example!default)
DELETE foo/bar
RENAME blurdybloop sarasoop
RENAME user/joe user/joe be2.example
XFER user/joe be2.example
XFER "user/joe" "be2.example" default
XFER "Shared Papers" be2.example:1143
SUBSCRIBE #news.comp.mail.mime
UNSUBSCRIBE #news.comp.mail.mime
LIST "" "*"
LIST "" *
LIST ~/Mail/ %
LIST "" ""
LIST /usr/staff/jones ""
LIST (SUBSCRIBED) "" "*"
LIST () "" "%" RETURN (CHILDREN)
LIST (REMOTE SUBSCRIBED) "" "*"
LIST (REMOTE) "" "*" RETURN (SUBSCRIBED)
LIST "" ("INBOX" "Drafts" "Sent/%")
LIST "" (% music/rock)
LIST (SUBSCRIBED RECURSIVEMATCH) "" "%" RETURN (CHILDREN)
LIST "" % RETURN (STATUS (MESSAGES UNSEEN))
LIST (SPECIAL-USE) "" "*"
LIST "" "%" RETURN (SPECIAL-USE MYRIGHTS)
list "" "*" return (status (mailboxid))
LIST "" "*" RETURN ()
LSUB "#news." "comp.mail.*"
STATUS blurdybloop (UIDNEXT MESSAGES HIGHESTMODSEQ)
STATUS INBOX (MESSAGES RECENT UIDVALIDITY UNSEEN DELETED SIZE DELETED-STORAGE APPENDLIMIT MAILBOXID)
UID EXPUNGE 3000:3002
UID EXPUNGE $
SEARCH RETURN (MIN COUNT) FLAGGED
SEARCH RETURN () FLAGGED
SEARCH RETURN (SAVE MIN) SINCE 12-Feb-2006
SEARCH TEXT "string not in mailbox"
UID SEARCH $ SMALLER 4096
UID SEARCH UID $ SMALLER 4096
UID SEARCH RETURN (MIN MAX) 1:5000
SEARCH CHARSET UTF-8 (OR $ 1,3000:3021) TEXT "x"
SEARCH KEYWORD $Junk UNKEYWORD $NotJunk
SEARCH MODSEQ "/flags/\\draft" all 620162338
SEARCH OR NOT MODSEQ 720162338 LARGER 50000
SEARCH emailid M6d99ac3275bb4e threadid T64b478a75b7ea9
SEARCH UNSEEN YOUNGER 259200 OLDER 1
SEARCH SAVEDON 28-Dec-2014 SAVEDBEFORE 1-Jan-2020 SAVEDSINCE 28-Dec-2014 SAVEDATESUPPORTED
SEARCH SENTON "1-feb-1994" SENTSINCE 1-Feb-1994 SENTBEFORE 01-Mar-2001 BEFORE 1-Mar-2001 ON 2-Mar-2001
SEARCH HEADER Message-ID "" BCC a BODY b CC c FROM d SUBJECT e TO f
SEARCH (ANSWERED (DELETED DRAFT)) NOT (UNANSWERED UNDELETED) UNDRAFT UNFLAGGED UNSEEN SEEN
SEARCH NEW OLD RECENT ALL *:4 2,4:7,9,12:*
SORT (SUBJECT REVERSE DATE) UTF-8 ALL
UID SEARCH RETURN (PARTIAL -1:-100) UNDELETED UNKEYWORD $Junk
UID SORT RETURN (COUNT PARTIAL 24000:24500) (REVERSE DATE) UTF-8 UNDELETED
UID FETCH 25900:26600 (UID FLAGS) (PARTIAL -1:-3)
UID FETCH 25900:26600 (UID FLAGS) (CHANGEDSINCE 98305 PARTIAL 1:30)
UID SORT RETURN (ALL) (DATE) UTF-8 MODSEQ 1234
SORT (ARRIVAL CC DISPLAYFROM DISPLAYTO FROM SIZE TO) US-ASCII TEXT "not in mailbox"
THREAD ORDEREDSUBJECT US-ASCII TEXT "gewp"
UID THREAD REFERENCES UTF-8 SINCE 5-MAR-2000
FETCH 4 ALL
fetch 12 full
FETCH 1:* FAST
fetch 12 body[header]
FETCH 2:4 (FLAGS BODY[HEADER.FIELDS (DATE FROM)])
FETCH 1 BODY.PEEK[HEADER.FIELDS.NOT ("Received")]<0.100>
FETCH 1 (BODY[] BODY[1] BODY[1.2.3.MIME] BODY[1.TEXT] BODY[TEXT]<10.20> BODY[2.HEADER])
FETCH 1 (RFC822 RFC822.HEADER RFC822.TEXT RFC822.SIZE BODY BODYSTRUCTURE ENVELOPE INTERNALDATE)
FETCH 1 (BINARY[1] BINARY.PEEK[2.1]<0.1024> BINARY.SIZE[3] BINARY[])
FETCH $ (UID INTERNALDATE FLAGS)
FETCH 1:3 (MODSEQ)
FETCH 1:* (emailid threadid)
FETCH 998 (SAVEDATE)
FETCH 1:4 (ENVELOPE PREVIEW (LAZY))
FETCH 1 PREVIEW
UID FETCH 4827313:4828442 FLAGS
UID FETCH 300:500 (FLAGS) (CHANGEDSINCE 12345 VANISHED)
FETCH 1:* (FLAGS) (CHANGEDSINCE 12345)
STORE 2:4 +FLAGS (\Deleted)
store 12 +flags \deleted
STORE $ +FLAGS.Silent (\Deleted)
STORE 7 -FLAGS.SILENT (\Answered \Seen $MDNSent)
STORE 1:7 (UNCHANGEDSINCE 320172338) +FLAGS (\SEEN)
UID STORE 6,4,8 (UNCHANGEDSINCE 12121230045) FLAGS ()
STORE 1 FLAGS \Seen \Flagged
COPY 2:4 MEETING
COPY $ "Other Messages"
UID COPY 305:310 meeting
MOVE 2 foo
UID MOVE 42:69 foo
SETACL INBOX/Drafts Chris +cda
SETACL INBOX/Drafts John lrswicda
SETACL INBOX -fred -rw
DeleteAcl INBOX Fred
getAcl INBOX/Drafts
LISTRIGHTS ~/Mail/saved smith
MYRIGHTS INBOX
GETQUOTA "!partition/sda4"
GETQUOTAROOT INBOX
SETQUOTA "" (STORAGE 510 MESSAGE 9)
SETQUOTA "x" ()
GETMETADATA "" /shared/comment
GETMETADATA "INBOX" (/shared/comment /private/comment)
GETMETADATA (DEPTH 1 MAXSIZE 1024) "INBOX" (/private/filters/values)
GETMETADATA "INBOX" (DEPTH infinity) (/private/filters/values)
SETMETADATA INBOX (/private/comment "My new comment" /shared/comment NIL)
LIST "" % RETURN (METADATA ("/shared/vendor/cmu/color" /private/comment) STATUS (MESSAGES) CHILDREN)
NOTIFY NONE
NOTIFY SET STATUS (selected (MessageNew (uid body.peek[header.fields (from to subject)]) MessageExpunge)) (subtree Lists MessageNew)
NOTIFY SET (SELECTED (MessageNew (uid flags) MessageExpunge)) (subtree Lists (MessageNew MessageExpunge))
NOTIFY SET (mailboxes INBOX (Messagenew messageExpunge)) (personal (SubscriptionChange)) (subtree (a "b c") NONE)
NOTIFY SET (selected-delayed NONE) (inboxes (MailboxName X-New)) (subscribed (ServerMetadataChange))
COMPRESS DEFLATE
"##;

#[test]
fn commands_of_the_rfcs_survive_printing() {
    for line in GOOD.lines().filter(|line| !line.is_empty()) {
        let tagged =
            read(format!("a1 {line}\r\n").as_bytes()).unwrap_or_else(|text| panic!("{text}: {line}"));
        for literals in [Literals::Synchronising, Literals::NonSynchronising] {
            let printed = encode(&tagged, literals).unwrap().concat();
            assert_eq!(
                read(&printed),
                Ok(tagged.clone()),
                "{line} -> {:?}",
                String::from_utf8_lossy(&printed)
            );
        }
        // A bare LF ends a line as well, and a space before it is no fault.
        assert_eq!(read(format!("a1 {line}\n").as_bytes()), Ok(tagged.clone()), "{line}");
        assert_eq!(read(format!("a1 {line} \r\n").as_bytes()), Ok(tagged), "{line}");
    }
}

#[test]
fn what_is_no_command_is_bad_and_leaves_the_stream_in_step() {
    let bad = r##"
NOOP x
FETCH 1
FETCH 0 FLAGS
FETCH 4294967296 FLAGS
FETCH 1 ()
FETCH 1 (FLAGS
FETCH 1 FLAGS)
FETCH 1 BODY[MIME]
FETCH 1 BODY[0]
FETCH 1 BODY[1..2]
FETCH 1 BODY[1.]
FETCH 1 BODY[HEADER.FIELDS ()]
FETCH 1 BODY[]<0.0>
FETCH 1 BODY[]<1>
FETCH 1 (FLAGS) (VANISHED)
FETCH 1 (FLAGS) (CHANGEDSINCE 9223372036854775808)
STORE 1 +-FLAGS (\Seen)
STORE 1 FLAGS (\Bogus)
STORE 1 FLAGS
STORE 1: FLAGS ()
STORE 1,,2 FLAGS ()
UID NOOP
UID
SEARCH
SEARCH RETURN (MIN)
SEARCH ()
SEARCH (ALL
SEARCH OR ALL
SEARCH BEFORE 31-Feb-2020
SEARCH EMAILID a.b
SEARCH YOUNGER 0
LOGIN a
LOGIN a "b
LOGIN a "b\c"
AUTHENTICATE PLAIN ab
ENABLE
LIST (RECURSIVEMATCH) "" *
LIST (RECURSIVEMATCH REMOTE) "" *
LIST "" ()
STATUS x ()
STATUS x (BOGUS)
SELECT INBOX (BOGUS)
SELECT INBOX (QRESYNC (0 5))
SELECT INBOX (QRESYNC (1 5 1:*))
CREATE x (USE (\Bogus))
SETACL INBOX fred lrQ
APPEND INBOX
APPEND INBOX "x"
COPY 1
RENAME a
RENAME a b c d
XFER
XFER a
XFER a b c d
XFER a (b)
"##;
    for line in bad.lines().filter(|line| !line.is_empty()) {
        assert!(read(format!("a1 {line}\r\n").as_bytes()).is_err(), "{line}");
    }
    for line in
        [&b"\r\n"[..], b" \r\n", b"a\r\n", b"a+ NOOP\r\n", b"a LOGIN \"\xff\" x\r\n", b"a LOGIN \"\0\" x\r\n"]
    {
        assert!(read(line).is_err(), "{line:?}");
    }
}

#[test]
fn values_are_what_the_words_say() {
    assert_eq!(command("XPIG-LATIN a b ("), Command::Unknown { name: "XPIG-LATIN".into() });
    let name = |text: &'static str| WireName(text.into());
    assert_eq!(command("RENAME a b "), Command::Rename { from: name("a"), to: name("b"), at: None });
    assert_eq!(
        command("xfer user/joe {3+}\r\nbe2 \"p 1\""),
        Command::Xfer { mailbox: name("user/joe"), node: "be2".into(), partition: Some("p 1".into()) }
    );
    assert_eq!(
        command("UID FETCH 1:* (UID BODY.PEEK[1.HEADER.FIELDS (Date)]<5.6>)"),
        Command::Fetch(Fetch {
            uid: true,
            set: MessageSet::Set(
                rookery_types::SequenceSet::new(vec![(
                    rookery_types::SetEnd::Number(1),
                    rookery_types::SetEnd::Largest
                )])
                .unwrap()
            ),
            items: vec![
                FetchItem::Uid,
                FetchItem::Section {
                    peek: true,
                    section: Section {
                        part: vec![1.try_into().unwrap()],
                        text: Some(SectionText::HeaderFields(vec!["Date".into()])),
                    },
                    partial: Some(rookery_codec::imap::types::Partial { origin: 5, octets: 6 }),
                },
            ],
            changed_since: None,
            vanished: false,
            partial: None,
        })
    );
    assert_eq!(
        command("SEARCH NOT SEEN (OR 1 $ TEXT x)"),
        Command::Search(Search {
            uid: false,
            returns: None,
            charset: None,
            key: SearchKey::And(vec![
                SearchKey::Not(Box::new(SearchKey::Has(SystemFlags::SEEN))),
                SearchKey::And(vec![
                    SearchKey::Or(
                        Box::new(SearchKey::Sequence(MessageSet::Set(
                            rookery_types::SequenceSet::new(vec![(
                                rookery_types::SetEnd::Number(1),
                                rookery_types::SetEnd::Number(1)
                            )])
                            .unwrap()
                        ))),
                        Box::new(SearchKey::Sequence(MessageSet::Saved)),
                    ),
                    SearchKey::Text("x".into()),
                ]),
            ]),
        })
    );
    assert_eq!(
        command("SETACL a b -lr"),
        Command::SetAcl {
            mailbox: "a".into(),
            identifier: "b".into(),
            change: Change::Remove,
            rights: Rights::parse("lr").unwrap(),
        }
    );
    assert_eq!(
        command("STATUS \"Entw\u{fc}rfe\" (SIZE)"),
        Command::Status { mailbox: WireName::from("Entw\u{fc}rfe"), items: vec![StatusItem::Size] }
    );
    let Command::Store(store) = command(r"STORE 1 FLAGS (\Recent \Seen)") else { panic!() };
    assert_eq!(store.flags.len(), 1);
    let Command::Login { password, .. } = command("LOGIN fred {3+}\r\na\"b") else { panic!() };
    assert_eq!((password.as_bytes(), format!("{password:?}")), (&b"a\"b"[..], "Secret(..)".to_owned()));
}

/// Octets that a literal can hold.
fn octets() -> impl Strategy<Value = bytes::Bytes> {
    prop_oneof![
        "[a-zA-Z0-9.]{1,8}".prop_map(bytes::Bytes::from),
        "[ -~]{0,20}".prop_map(bytes::Bytes::from),
        prop::collection::vec(1u8.., 0..30).prop_map(bytes::Bytes::from),
    ]
}

fn name() -> impl Strategy<Value = WireName> {
    octets().prop_map(WireName)
}

fn sequence_set() -> impl Strategy<Value = SequenceSet> {
    let end = || prop_oneof![Just(SetEnd::Largest), (1u32..).prop_map(SetEnd::Number)];
    prop::collection::vec((end(), end()), 1..5).prop_map(|ranges| SequenceSet::new(ranges).unwrap())
}

fn set() -> impl Strategy<Value = MessageSet> {
    prop_oneof![Just(MessageSet::Saved), sequence_set().prop_map(MessageSet::Set)]
}

fn key() -> impl Strategy<Value = SearchKey> {
    let flag = || (0usize..5).prop_map(|n| SystemFlags::ALL[n].0);
    let keyword = || "[a-z$]{1,12}".prop_map(|word| Keyword::new(&word).unwrap());
    let field = prop::sample::select(vec![DateField::Internal, DateField::Sent, DateField::Saved]);
    let test = prop::sample::select(vec![DateTest::Before, DateTest::On, DateTest::Since]);
    let leaf = prop_oneof![
        Just(SearchKey::All),
        flag().prop_map(SearchKey::Has),
        flag().prop_map(SearchKey::HasNot),
        keyword().prop_map(SearchKey::Keyword),
        keyword().prop_map(SearchKey::Unkeyword),
        (field, test, -700_000i64..2_900_000).prop_map(|(field, test, day)| SearchKey::Date(
            field,
            test,
            Day(day)
        )),
        octets().prop_map(SearchKey::Text),
        octets().prop_map(SearchKey::Bcc),
        (octets(), octets()).prop_map(|(field, value)| SearchKey::Header { field, value }),
        (0u64..1 << 63).prop_map(SearchKey::Larger),
        (0u64..1 << 63).prop_map(|modseq| SearchKey::ModSeq { entry: None, modseq }),
        "[a-zA-Z0-9_-]{1,30}".prop_map(|id| SearchKey::EmailId(id.into())),
        set().prop_map(SearchKey::Sequence),
        set().prop_map(SearchKey::Uid),
    ];
    leaf.prop_recursive(8, 40, 4, |inner| {
        prop_oneof![
            inner.clone().prop_map(|key| SearchKey::Not(Box::new(key))),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| SearchKey::Or(Box::new(a), Box::new(b))),
            prop::collection::vec(inner, 2..4).prop_map(SearchKey::And),
        ]
    })
}

fn any_command() -> impl Strategy<Value = Command> {
    let flags = prop::collection::vec(
        prop_oneof![
            (0usize..5).prop_map(|n| Flag::System(SystemFlags::ALL[n].0)),
            "[a-z$]{1,9}".prop_map(|word| Flag::Keyword(Keyword::new(&word).unwrap())),
        ],
        0..5,
    );
    let known = || {
        prop::collection::vec((1u32.., 1u32..), 1..4).prop_map(|ranges| {
            let end = SetEnd::Number;
            SequenceSet::new(ranges.into_iter().map(|(a, b)| (end(a), end(b))).collect()).unwrap()
        })
    };
    let qresync = (1u32.., 0u64..1 << 63, prop::option::of(known()), prop::option::of((known(), known())))
        .prop_map(|(validity, modseq, known_uids, sequence_match)| Qresync {
            uid_validity: UidValidity::new(validity).unwrap(),
            modseq,
            known_uids,
            sequence_match,
        });
    prop_oneof![
        (octets(), octets()).prop_map(|(user, password)| Command::Login { user, password: Secret(password) }),
        prop::option::of(prop::collection::vec(any::<u8>(), 0..20)).prop_map(|initial| {
            Command::Authenticate {
                mechanism: "PLAIN".into(),
                initial: initial.map(|octets| Secret(octets.into())),
            }
        }),
        (name(), any::<bool>(), any::<bool>(), prop::option::of(qresync)).prop_map(
            |(mailbox, read_only, condstore, qresync)| Command::Select {
                mailbox,
                read_only,
                parameters: SelectParameters { condstore, qresync },
            }
        ),
        (name(), name(), prop::option::of(octets())).prop_map(|(from, to, at)| Command::Rename {
            from,
            to,
            at
        }),
        (name(), octets(), prop::option::of(octets())).prop_map(|(mailbox, node, partition)| Command::Xfer {
            mailbox,
            node,
            partition
        }),
        (name(), prop::collection::vec(name(), 2..4), any::<bool>(), any::<bool>()).prop_map(
            |(reference, patterns, subscribed, children)| Command::List(List {
                select: ListSelect { subscribed, recursive_match: subscribed, ..ListSelect::default() },
                reference,
                patterns,
                returns: ListReturn { children, status: vec![StatusItem::Size], ..ListReturn::default() },
                extended: true,
            })
        ),
        (any::<bool>(), prop::option::of(octets()), key()).prop_map(|(uid, charset, key)| {
            Command::Search(Search {
                uid,
                returns: Some(SearchReturn { save: true, ..Default::default() }),
                charset,
                key,
            })
        }),
        (any::<bool>(), set(), prop::option::of(0u64..1 << 63), any::<bool>(), flags).prop_map(
            |(uid, set, unchanged_since, silent, flags)| Command::Store(Store {
                uid,
                set,
                unchanged_since,
                change: Change::Add,
                silent,
                flags,
            })
        ),
        (any::<bool>(), set(), name()).prop_map(|(uid, set, mailbox)| Command::Move { uid, set, mailbox }),
        (name(), prop::collection::vec((octets(), prop::option::of(octets())), 1..4))
            .prop_map(|(mailbox, entries)| Command::SetMetadata { mailbox, entries }),
    ]
}

proptest! {
    #[test]
    fn printed_commands_read_back(command in any_command(), synchronising: bool) {
        let tagged = Tagged { tag: Tag::new(b"A1").unwrap(), command };
        let literals = if synchronising { Literals::Synchronising } else { Literals::NonSynchronising };
        let chunks = encode(&tagged, literals).unwrap();
        // The server asks for each chunk but the first.
        let mut decoder = Decoder::new(Limits::LOGGED_IN);
        let last = chunks.len() - 1;
        for (i, chunk) in chunks.iter().enumerate() {
            decoder.push(chunk);
            let decoded = decoder.next();
            if i < last {
                prop_assert_eq!(decoded, Decoded::Continue, "{:?}", chunks);
            } else {
                prop_assert_eq!(decoded, Decoded::Command(tagged.clone()), "{:?}", chunks);
            }
        }
    }
}

#[test]
fn append_is_printed_around_its_messages() {
    use rookery_codec::imap::client::AppendEncoder;
    use rookery_codec::imap::types::LiteralKind;
    let message = |octets, synchronising, utf8| AppendMessage {
        flags: vec![Flag::System(SystemFlags::SEEN)],
        date: rookery_types::InternalDate::new(0, 0),
        source: AppendSource::Literal(AppendLiteral {
            octets,
            kind: LiteralKind { synchronising, binary: utf8 },
            utf8,
        }),
    };
    let tag = Tag::new(b"A1").unwrap();
    let (mut append, chunks) =
        AppendEncoder::start(&tag, None, &"a \"b".into(), &message(3, true, false), Literals::Synchronising)
            .unwrap();
    assert_eq!(chunks, [&b"A1 APPEND \"a \\\"b\" (\\Seen) \" 1-Jan-1970 00:00:00 +0000\" {3}\r\n"[..], b""]);
    let chunks = append.next(&message(0, false, true)).unwrap();
    assert_eq!(chunks, [&b" (\\Seen) \" 1-Jan-1970 00:00:00 +0000\" UTF8 (~{0+}\r\n"[..]]);
    assert_eq!(append.end(), b")\r\n");
    let replaced = Replaced { uid: true, message: rookery_types::SetEnd::Number(7) };
    let plain = AppendMessage { flags: vec![], date: None, ..message(3, false, false) };
    let (replace, chunks) =
        AppendEncoder::start(&tag, Some(replaced), &"x".into(), &plain, Literals::NonSynchronising).unwrap();
    assert_eq!(chunks, [&b"A1 UID REPLACE 7 x {3+}\r\n"[..]]);
    assert_eq!(replace.end(), b"\r\n");
}

#[test]
fn values_of_annotations_hold_anything() {
    let entries = vec![(bytes::Bytes::from("/shared/comment"), Some(bytes::Bytes::from_static(b"a\0b")))];
    let command = Command::SetMetadata { mailbox: "x".into(), entries };
    let tagged = Tagged { tag: Tag::new(b"a").unwrap(), command };
    let chunks = encode(&tagged, Literals::NonSynchronising).unwrap();
    assert_eq!(chunks, [&b"a SETMETADATA x (/shared/comment ~{3+}\r\na\0b)\r\n"[..]]);
    let mut decoder = Decoder::new(Limits::LOGGED_IN);
    decoder.push(&chunks[0]);
    assert_eq!(decoder.next(), Decoded::Command(tagged));
}

#[test]
fn what_cannot_be_sent_is_refused() {
    use rookery_codec::imap::client::EncodeError;
    let refuse = |command| encode(&Tagged { tag: Tag::new(b"a").unwrap(), command }, Literals::Synchronising);
    assert_eq!(refuse(Command::Compress { mechanism: "X\r\nb NOOP".into() }), Err(EncodeError::NotAnAtom));
    assert_eq!(refuse(Command::Delete { mailbox: "a\0".into() }), Err(EncodeError::Nul));
    assert_eq!(refuse(Command::Unknown { name: "X".into() }), Err(EncodeError::Unknown));
}
