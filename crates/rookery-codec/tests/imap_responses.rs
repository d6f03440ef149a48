//! Responses as the RFCs show them, and any response at all: each is read, printed, and read again.
#![allow(clippy::unwrap_used, reason = "a test may stop where it fails")]

use bytes::BytesMut;
use proptest::prelude::*;
use rookery_codec::imap::client::{Decoded, Decoder};
use rookery_codec::imap::print::{FetchWriter, response};
use rookery_codec::imap::response::*;
use rookery_codec::imap::types::IdParams;
use rookery_codec::imap::{FlagList, Section, SectionText, Tag, WireName};
use rookery_types::{
    InternalDate, Keyword, ModSeq, SeqNum, SpecialUse, SystemFlags, Uid, UidSet, UidValidity,
};

fn read(octets: &[u8], cuts: usize) -> Vec<Decoded> {
    let mut decoder = Decoder::new(1 << 20);
    let mut found = Vec::new();
    for chunk in octets.chunks(cuts.max(1)) {
        decoder.push(chunk);
        loop {
            match decoder.next() {
                Decoded::NeedMore => break,
                decoded => found.push(decoded),
            }
            if found.last() == Some(&Decoded::TooLong) {
                return found;
            }
        }
    }
    found
}

fn print(value: &Response) -> BytesMut {
    let mut out = BytesMut::new();
    response(&mut out, value);
    out
}

const GOOD: &str = r##"
* OK [ALERT] System shutdown in 10 minutes
* OK IMAP4rev2 server ready {5}
* PREAUTH IMAP4rev2 server logged in as Smith
* BYE Autologout; idle for too long
A001 OK LOGIN completed
a NO [TRYCREATE] No such mailbox
a NO [BADCHARSET (UTF-8 US-ASCII)] x
a NO [BADCHARSET] x
a BAD Command line too long
* OK [UNSEEN 17] Message 17 is the first unseen message
* OK [UIDVALIDITY 3857529045] UIDs valid
* OK [UIDNEXT 4392] Predicted next UID
* OK [PERMANENTFLAGS (\Deleted \Seen \*)] Limited
* OK [PERMANENTFLAGS ()] No permanent flags permitted
* OK [HIGHESTMODSEQ 715194045007] Highest
* OK [NOMODSEQ] Sorry
* OK [CLOSED] x
a OK [READ-WRITE] SELECT completed
a OK [APPENDUID 38505 3955] APPEND completed
a OK [COPYUID 38505 304,319:320 3956:3958] COPY completed
a OK [MODIFIED 7,9] Conditional STORE failed
* OK [MAILBOXID (F2212ea87-6097-4256-9d51-71338625)] Ok
* OK [CAPABILITY IMAP4rev2 AUTH=PLAIN LITERAL+] ready
a NO [REFERRAL imap://user;AUTH=*@SERVER2/REMOTE IMAP://X/] x
a NO [METADATA TOOMANY] x
a OK [METADATA LONGENTRIES 2199] x
a NO [METADATA MAXSIZE 1024] x
* OK [INPROGRESS ("A001" 454 1000)] x
* OK [INPROGRESS ("A001" NIL NIL)] x
* OK [INPROGRESS] x
a NO [X-OWN some (thing)] x
a NO [OVERQUOTA] APPEND Failed
a NO [UNKNOWN-CTE] x
+ idling
+ dGVzdA==
* CAPABILITY IMAP4rev2 STARTTLS LOGINDISABLED LITERAL+
* ENABLED CONDSTORE QRESYNC
* ENABLED
* ID ("name" "Cyrus" "os" NIL)
* ID NIL
* NAMESPACE (("" "/")) (("Other Users/" "/")) NIL
* NAMESPACE (("" "/")("#mh/" "/" "X-PARAM" ("FLAG1" "FLAG2"))) NIL (("x" NIL))
* LIST (\Noselect) "/" ""
* LIST () "/" "Foo" ("CHILDINFO" ("SUBSCRIBED"))
* LIST () "/" new ("OLDNAME" ("old name"))
* LIST (\HasNoChildren \Sent \Subscribed \X-Own) "." INBOX
* LIST (\NonExistent \Marked \Unmarked \NoInferiors \HasChildren \Remote) NIL "a\"b"
* LIST () "\\" {3}
a"b
* LSUB () "." #news.comp.mail.misc
* STATUS blurdybloop (MESSAGES 231 UIDNEXT 44292 HIGHESTMODSEQ 7011231777)
* STATUS INBOX (RECENT 1 UNSEEN 2 DELETED 4 DELETED-STORAGE 8 SIZE 4294967296 APPENDLIMIT NIL UIDVALIDITY 1)
* STATUS foo (MAILBOXID (F2212ea87-6097-4256-9d51-71338625) APPENDLIMIT 5 HIGHESTMODSEQ 0)
* SEARCH
* SEARCH 2 3 6
* SEARCH 2 5 6 7 11 12 18 19 20 23 (MODSEQ 917162500)
* ESEARCH (TAG "A284")
* ESEARCH (TAG "A285") UID MIN 7 MAX 3800
* ESEARCH (TAG "a") ALL 1:3,5 MODSEQ 1236
* ESEARCH COUNT 18 ALL 1:17,21
* ESEARCH (TAG "E01") UID ALL 23765,23764,23763,23761,5:9
* ESEARCH (TAG "A01") UID PARTIAL (-1:-100 5,9:20)
* ESEARCH (TAG "A04") UID PARTIAL (24000:24500 NIL)
* 25996 UIDFETCH (FLAGS (\Seen))
* SORT 2 84 882
* SORT 2 5 6 7 11 12 18 19 20 23 (MODSEQ 917162500)
* SORT
* THREAD (166)(167)(168)(169)(172)((170)(179))
* THREAD
* FLAGS (\Answered \Flagged \Deleted \Seen \Draft)
* 23 EXISTS
* 5 RECENT
* 44 EXPUNGE
* VANISHED 405,407,410,425
* VANISHED (EARLIER) 41,43:116,118,120:211,214:540
* 23 FETCH (FLAGS (\Seen $MDNSent) RFC822.SIZE 44827 UID 447)
* 1 FETCH (FLAGS (\Recent) MODSEQ (624140003))
* 12 FETCH (BODY[HEADER] {6}
a: b
 UID 4)
* 12 FETCH (BODY[1.HEADER.FIELDS (DATE "from")]<0> "x" BODY[] NIL BODY[TEXT]<5> "" BODY[2.MIME] "y")
* 12 FETCH (BINARY[1]<0> ~{3}
abc BINARY.SIZE[2] 7 RFC822 "a" RFC822.HEADER "b" RFC822.TEXT NIL)
* 12 FETCH (INTERNALDATE "17-Jul-1996 02:44:25 -0700" SAVEDATE " 1-Jan-2024 00:00:00 +0000" SAVEDATE NIL)
* 12 FETCH (ENVELOPE ("Wed" {3}
(x) (("T" NIL "g" "c")) NIL) BODY ("TEXT" "PLAIN" ("C" "U") NIL) BODYSTRUCTURE (("A" 1)("B" 2) "MIXED"))
* 1 FETCH (EMAILID (M6d99ac3275bb4e) THREADID NIL X-UNKNOWN (1 ("2")) PREVIEW "x" PREVIEW NIL)
* 1 FETCH (EMAILID (M6d99ac3275bb4e) THREADID (T64b478a75b7ea9))
* ACL INBOX Fred rwipslxetad -Fred wetd $team w
* ACL INBOX
* LISTRIGHTS ~/Mail/saved smith la r swicdkxte
* LISTRIGHTS archive/imap anyone ""
* MYRIGHTS INBOX rwiptsldaex
* QUOTA "#user/alice" (STORAGE 54 111 MESSAGE 42 1000)
* QUOTA "" ()
* QUOTAROOT INBOX "#user/alice" "!partition/sda4"
* QUOTAROOT comp.mail.mime
* METADATA "INBOX" (/private/comment "My comment" /shared/comment NIL)
* METADATA "" /shared/comment /private/comment
* XLIST (something "unknown")
"##;

#[test]
fn responses_of_the_rfcs_survive_printing() {
    let text = GOOD.trim_start().replace('\n', "\r\n");
    let found = read(text.as_bytes(), text.len());
    // A line that begins otherwise goes on with the response above it.
    let begins = |line: &&str| ["* ", "a ", "A001 ", "+ "].iter().any(|start| line.starts_with(start));
    assert_eq!(found.len(), GOOD.lines().filter(begins).count(), "{found:?}");
    for decoded in &found {
        let Decoded::Response(value) = decoded else { panic!("{decoded:?}") };
        let printed = print(value);
        assert_eq!(
            read(&printed, 1),
            std::slice::from_ref(decoded),
            "{:?}",
            String::from_utf8_lossy(&printed)
        );
    }
    assert_eq!(read(text.as_bytes(), 7), found);
}

#[test]
fn what_is_no_response_leaves_the_stream_in_step() {
    for bad in [
        "* 0 EXPUNGE",
        "* 1 FETCH ()",
        "* 1 FETCH (UID 0)",
        "* LIST",
        "* ESEARCH MIN 0",
        "a LIST",
        "\"",
        "* THREAD (1",
    ] {
        let found = read(format!("{bad}\r\n* 1 EXISTS\r\n").as_bytes(), 3);
        assert!(matches!(found[0], Decoded::Malformed { .. }), "{bad} {found:?}");
        assert_eq!(found[1], Decoded::Response(Response::Exists(1)), "{bad}");
    }
    let bomb = format!("* 1 FETCH (BODY {})\r\n* 1 EXISTS\r\n", "(".repeat(100_000));
    assert!(matches!(read(bomb.as_bytes(), 9999)[..], [Decoded::Malformed { .. }, Decoded::Response(_)]));
    assert_eq!(read(b"* 1 FETCH (BODY[] {4294967296}\r\n", 9), [Decoded::TooLong]);
    assert_eq!(read(&[b'x'; 2 << 20], 4096), [Decoded::TooLong]);
}

#[test]
fn fetch_is_written_as_it_was_asked() {
    let mut out = BytesMut::new();
    let mut writer = FetchWriter::begin(&mut out, SeqNum::new(12).unwrap());
    writer.uid(Uid::MAX);
    writer.flags(SystemFlags::SEEN | SystemFlags::DRAFT, true, ["$Junk"]);
    writer.modseq(ModSeq::new(i64::MAX as u64).unwrap());
    writer.size(0);
    writer.internaldate(InternalDate::new(0, -90).unwrap());
    writer.savedate(None);
    let section = Section { part: vec![1.try_into().unwrap()], text: Some(SectionText::Mime) };
    writer.section_literal_header(&section, Some(100), 3);
    writer.buffer().extend_from_slice(b"a\r\n");
    writer.end();
    assert_eq!(
        String::from_utf8_lossy(&out),
        "* 12 FETCH (UID 4294967295 FLAGS (\\Seen \\Draft \\Recent $Junk) MODSEQ (9223372036854775807) \
         RFC822.SIZE 0 INTERNALDATE \"31-Dec-1969 22:30:00 -0130\" SAVEDATE NIL BODY[1.MIME]<100> {3}\r\n\
         a\r\n)\r\n"
    );
}

#[test]
fn no_text_ends_a_line_early() {
    let status = |text: &'static str| print(&Response::untagged(Condition::Ok, text));
    assert_eq!(&status("a\r\n* BYE")[..], b"* OK a  * BYE\r\n");
    assert_eq!(&status("[ALERT] x")[..], b"* OK (ALERT] x\r\n");
    assert_eq!(&status("")[..], b"* OK Done\r\n");
    let name =
        |name: &'static str| print(&Response::QuotaRoot { mailbox: WireName::from(name), roots: vec![] });
    assert_eq!(&name("a\r\nb")[..], b"* QUOTAROOT {4}\r\na\r\nb\r\n");
    assert_eq!(&name("\u{fc}")[..], "* QUOTAROOT \"\u{fc}\"\r\n".as_bytes());
    assert_eq!(&name("nil")[..], b"* QUOTAROOT \"nil\"\r\n");
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-zA-Z0-9]{1,8}", "[ -~]{0,20}", "[\\PC\r\n]{0,12}"]
}

fn octets() -> impl Strategy<Value = bytes::Bytes> {
    prop_oneof![
        text().prop_map(bytes::Bytes::from),
        prop::collection::vec(any::<u8>(), 0..30).prop_map(bytes::Bytes::from)
    ]
}

fn name() -> impl Strategy<Value = WireName> {
    text().prop_map(WireName::from)
}

fn uids() -> impl Strategy<Value = UidSet> {
    prop::collection::vec((1u32..1000, 0u32..9), 1..6)
        .prop_map(|ranges| ranges.into_iter().flat_map(|(a, n)| a..=a + n).collect())
}

fn flags() -> impl Strategy<Value = FlagList> {
    (0u8..32, any::<bool>(), any::<bool>(), prop::collection::vec("[a-z$]{1,9}", 0..4)).prop_map(
        |(bits, recent, any, keywords)| FlagList {
            system: SystemFlags::from_bits(bits).unwrap(),
            recent,
            any,
            keywords: keywords.iter().filter_map(|word| Keyword::new(word)).collect(),
        },
    )
}

fn date() -> impl Strategy<Value = InternalDate> {
    (0i64..4_000_000_000, -1439i16..=1439).prop_map(|(second, zone)| InternalDate::new(second, zone).unwrap())
}

fn code() -> impl Strategy<Value = Option<Code>> {
    let validity = || (1u32..).prop_map(|n| UidValidity::new(n).unwrap());
    prop::option::of(prop_oneof![
        Just(Code::OverQuota),
        Just(Code::UnknownCte),
        Just(Code::MetadataTooMany),
        Just(Code::BadUrl("/INBOX;UIDVALIDITY=785799047/;UID=113330/;section=1.5.9".into())),
        (validity(), uids()).prop_map(|(uid_validity, uids)| Code::AppendUid { uid_validity, uids }),
        (validity(), uids(), uids()).prop_map(|(uid_validity, from, to)| Code::CopyUid {
            uid_validity,
            from,
            to
        }),
        flags().prop_map(Code::PermanentFlags),
        uids().prop_map(Code::Modified),
        Just(Code::Other("X-A b".into())),
    ])
}

fn fetch_data() -> impl Strategy<Value = FetchData> {
    let part = || prop::collection::vec((1u32..99).prop_map(|n| n.try_into().unwrap()), 0..3);
    let section = (part(), prop::option::of(prop::collection::vec("[A-Za-z-]{1,12}", 1..3))).prop_map(
        |(part, names)| {
            let names = names.map(|names| names.into_iter().map(bytes::Bytes::from).collect());
            Section { part, text: names.map(SectionText::HeaderFields) }
        },
    );
    prop_oneof![
        flags().prop_map(|list| FetchData::Flags(FlagList { any: false, ..list })),
        (1u32..).prop_map(|n| FetchData::Uid(Uid::new(n).unwrap())),
        (1u64..1 << 62).prop_map(|n| FetchData::ModSeq(ModSeq::new(n).unwrap())),
        (0u64..1 << 62).prop_map(FetchData::Size),
        date().prop_map(FetchData::InternalDate),
        prop::option::of(date()).prop_map(FetchData::SaveDate),
        prop::option::of(octets()).prop_map(FetchData::Preview),
        (section, prop::option::of(0u64..99), prop::option::of(octets()))
            .prop_map(|(section, origin, data)| FetchData::Section { section, origin, data }),
        (part(), prop::option::of(0u64..99), prop::option::of(octets()))
            .prop_map(|(part, origin, data)| FetchData::Binary { part, origin, data }),
    ]
}

fn any_response() -> impl Strategy<Value = Response> {
    let id: BoxedStrategy<IdParams> =
        prop::option::of(prop::collection::vec((octets(), prop::option::of(octets())), 0..3)).boxed();
    let condition = prop::sample::select(vec![Condition::Ok, Condition::No, Condition::Bad]);
    let tag =
        prop::option::of("[a-zA-Z0-9.]{1,9}").prop_map(|tag| tag.and_then(|tag| Tag::new(tag.as_bytes())));
    prop_oneof![
        (tag, condition, code(), "[a-z]{1,5}[ -~]{0,20}[{]?[0-9]?[}]?").prop_map(
            |(tag, condition, code, text)| {
                Response::Status(Status { tag, condition, code, text: text.into() })
            }
        ),
        id.prop_map(Response::Id),
        (name(), name(), any::<bool>(), any::<bool>()).prop_map(|(mailbox, old, child, renamed)| {
            Response::List(ListEntry {
                attributes: vec![ListAttribute::HasChildren, ListAttribute::SpecialUse(SpecialUse::Junk)],
                separator: child.then_some(b'\\'),
                mailbox,
                child_info: if child { vec!["SUBSCRIBED".into()] } else { vec![] },
                old_name: renamed.then_some(old),
            })
        }),
        (name(), octets(), octets())
            .prop_map(|(mailbox, a, b)| Response::Acl { mailbox, entries: vec![(a, b)] }),
        (name(), prop::collection::vec((octets(), prop::option::of(octets())), 1..3)).prop_map(
            |(mailbox, entries)| Response::Metadata { mailbox, entries: MetadataEntries::Values(entries) }
        ),
        (any::<bool>(), uids()).prop_map(|(earlier, uids)| Response::Vanished { earlier, uids }),
        (prop::collection::vec(1u32.., 0..5), prop::option::of(1u64..1 << 62)).prop_map(
            |(numbers, modseq)| { Response::Search { numbers, modseq: modseq.and_then(ModSeq::new) } }
        ),
        (1u32.., prop::collection::vec(fetch_data(), 1..5))
            .prop_map(|(n, items)| Response::Fetch { seq: SeqNum::new(n).unwrap(), items }),
    ]
}

proptest! {
    #[test]
    fn printed_responses_read_back(values in prop::collection::vec(any_response(), 1..4), cut in 1usize..40) {
        let mut out = BytesMut::new();
        values.iter().for_each(|value| response(&mut out, value));
        let expected: Vec<_> = values.into_iter().map(Decoded::Response).collect();
        prop_assert_eq!(read(&out, cut), expected, "{:?}", String::from_utf8_lossy(&out));
    }

    #[test]
    fn any_octets_are_read(input in prop::collection::vec(any::<u8>(), 0..300), cut in 1usize..40) {
        prop_assert_eq!(read(&input, cut), read(&input, 300));
    }
}
