//! The demo's mail: a small firm that restores rowing boats.

use std::fmt::Write;

use rookery_types::{Keyword, SystemFlags};

/// One message before it is written out.
pub(super) struct Letter {
    /// The mailbox.
    pub(super) mailbox: &'static str,
    /// Hours before now.
    pub(super) hours_ago: i64,
    from: &'static str,
    to: &'static str,
    subject: &'static str,
    /// Its number, for threads.
    number: u32,
    /// The number of the message it answers; 0: none.
    answers: u32,
    kind: Kind,
    pub(super) flags: SystemFlags,
    keyword: &'static str,
}

enum Kind {
    Plain(&'static str),
    /// Plain text and HTML of the same.
    Html(&'static str, &'static str),
    /// Text and an attached file: name, type, content.
    Attached(&'static str, &'static str, &'static str, &'static [u8]),
}

const ME: &str = "Dana Demo <demo@localhost>";
const IRIS: &str = "Iris Okafor <iris@lakeside-boats.example>";
const TOM: &str = "Tom Lindqvist <tom@lakeside-boats.example>";
const JURGEN: &str = "Jürgen Müller <juergen@werft-mueller.example>";
const YUKI: &str = "田中 由紀 <yuki@hinoki.example>";
const LIST: &str = "Wooden Boats <wooden-boats@lists.example>";
const SHOP: &str = "Copper & Brass Ltd. <orders@copperbrass.example>";
const BANK: &str = "Harbour Bank <noreply@harbour-bank.example>";
const SPAM: &str = "Prize Office <winner@prizes.example>";

const NEW: SystemFlags = SystemFlags::NONE;
const SEEN: SystemFlags = SystemFlags::SEEN;

/// A chart of some days, small enough to stand here: a 1 × 1 PNG.
const PNG: &[u8] = &[
    0x89, b'P', b'N', b'G', 0x0d, 0x0a, 0x1a, 0x0a, 0, 0, 0, 13, b'I', b'H', b'D', b'R', 0, 0, 0, 1, 0, 0, 0,
    1, 8, 6, 0, 0, 0, 0x1f, 0x15, 0xc4, 0x89, 0, 0, 0, 13, b'I', b'D', b'A', b'T', 0x78, 0x9c, 0x63, 0xf8,
    0xcf, 0xc0, 0xf0, 0x1f, 0, 5, 0, 1, 0xff, 0x56, 0xc7, 0x2f, 0x0d, 0, 0, 0, 0, b'I', b'E', b'N', b'D',
    0xae, 0x42, 0x60, 0x82,
];

const OFFER: &[u8] = b"item,pieces,price\r\ncopper rivets 3.5 x 50,400,86.00\r\nroves 3.5,400,24.00\r\nbrass rowlocks,4,92.00\r\n";

/// All of it, oldest last.
pub(super) fn letters() -> Vec<Letter> {
    let l = |mailbox, hours_ago, number, answers, from, to, subject, flags, keyword, kind| Letter {
        mailbox,
        hours_ago,
        from,
        to,
        subject,
        number,
        answers,
        kind,
        flags,
        keyword,
    };
    use Kind::{Attached, Html, Plain};
    vec![
        l(
            "INBOX",
            1,
            1,
            0,
            IRIS,
            ME,
            "Welcome to Rookery",
            NEW,
            "",
            Plain(
                "Dana,\n\nthis account was made by `rookery demo`. Read it, move it, delete it: nothing here is real.\n\
             Deliver more with any LMTP client to the port that the demo has printed.\n\nIris",
            ),
        ),
        l(
            "INBOX",
            3,
            2,
            0,
            TOM,
            ME,
            "The skiff is on the trestles",
            NEW,
            "",
            Plain(
                "Morning,\n\nshe came out of the water yesterday. Two strakes are soft near the stern, the rest is sound.\n\
             Shall I order larch, or do you still have some?\n\nTom",
            ),
        ),
        l(
            "INBOX",
            2,
            3,
            2,
            IRIS,
            TOM,
            "Re: The skiff is on the trestles",
            NEW,
            "",
            Plain(
                "> Shall I order larch, or do you still have some?\n\nThere are four boards in the loft, 14 mm. Enough for two strakes.\n\nIris",
            ),
        ),
        l(
            "INBOX",
            5,
            4,
            0,
            JURGEN,
            ME,
            "Grüße aus der Werft – Maße für die Dollen",
            NEW | SystemFlags::FLAGGED,
            "",
            Plain(
                "Liebe Dana,\n\ndie Dollen brauchen 12 mm Bohrungen, Abstand 340 mm. Die Zeichnung schicke ich noch.\n\nViele Grüße\nJürgen",
            ),
        ),
        l(
            "INBOX",
            8,
            5,
            0,
            YUKI,
            ME,
            "檜の板について",
            NEW,
            "",
            Plain(
                "デモ様\n\n檜の板は来週届きます。長さは四メートルです。\n\nよろしくお願いいたします。\n田中",
            ),
        ),
        l(
            "INBOX",
            20,
            6,
            0,
            SHOP,
            ME,
            "Your offer no. 20417",
            SEEN,
            "Work",
            Attached(
                "Dear customer,\n\nplease find our offer attached. It is good for thirty days.\n\nCopper & Brass Ltd.",
                "offer-20417.csv",
                "text/csv",
                OFFER,
            ),
        ),
        l(
            "INBOX",
            26,
            7,
            0,
            BANK,
            ME,
            "Your statement is ready",
            SEEN,
            "",
            Html(
                "Your statement for this month is ready. Please log in to read it.",
                "<html><body style=\"font-family: sans-serif\"><h2>Harbour Bank</h2><p>Your statement for this month is <b>ready</b>.</p>\
             <p><a href=\"https://harbour-bank.example/\">Log in</a> to read it.</p></body></html>",
            ),
        ),
        l(
            "INBOX",
            30,
            8,
            0,
            TOM,
            ME,
            "Photo of the stern",
            SEEN | SystemFlags::ANSWERED,
            "",
            Attached("Here is how it looks from below.\n\nTom", "stern.png", "image/png", PNG),
        ),
        l(
            "INBOX",
            50,
            9,
            0,
            IRIS,
            ME,
            "Invoice for the Hansen dinghy",
            SEEN | SystemFlags::ANSWERED,
            "$Forwarded",
            Plain("Dana,\n\nhas it been paid? The books say no, the bank says yes.\n\nIris"),
        ),
        l(
            "INBOX",
            70,
            10,
            0,
            "Ana López <ana@remo.example>",
            ME,
            "¿Cuándo está listo el bote?",
            SEEN,
            "",
            Plain(
                "Hola Dana,\n\n¿cuándo puedo recoger el bote? El fin de semana sería perfecto.\n\nUn saludo\nAna",
            ),
        ),
        l(
            "Sent",
            29,
            11,
            8,
            ME,
            TOM,
            "Re: Photo of the stern",
            SEEN,
            "",
            Plain(
                "> Here is how it looks from below.\n\nWorse than I hoped, better than I feared. Steam box on Friday?\n\nDana",
            ),
        ),
        l(
            "Sent",
            48,
            12,
            9,
            ME,
            IRIS,
            "Re: Invoice for the Hansen dinghy",
            SEEN,
            "",
            Plain("> has it been paid?\n\nYes, on Monday. I have told the books.\n\nDana"),
        ),
        l(
            "Sent",
            68,
            13,
            10,
            ME,
            "Ana López <ana@remo.example>",
            "Re: ¿Cuándo está listo el bote?",
            SEEN,
            "",
            Plain("Hola Ana,\n\nel sábado a partir de las diez.\n\nDana"),
        ),
        l(
            "Drafts",
            4,
            14,
            4,
            ME,
            JURGEN,
            "Re: Grüße aus der Werft – Maße für die Dollen",
            SEEN | SystemFlags::DRAFT,
            "",
            Plain("Lieber Jürgen,\n\nvielen Dank! Ich bohre erst, wenn"),
        ),
        l(
            "Archive",
            400,
            15,
            0,
            IRIS,
            ME,
            "Rota for the winter",
            SEEN,
            "",
            Plain("Mondays Tom, Tuesdays you, Wednesdays me. The stove needs wood.\n\nIris"),
        ),
        l(
            "Archive",
            410,
            16,
            0,
            TOM,
            ME,
            "Varnish: the test is in",
            SEEN | SystemFlags::FLAGGED,
            "Work",
            Html(
                "Eight coats of the thin one win. The table is in the HTML part.",
                "<table border=1><tr><th>Varnish</th><th>Coats</th><th>Weeks</th></tr><tr><td>thin</td><td>8</td><td>31</td></tr>\
             <tr><td>thick</td><td>4</td><td>19</td></tr></table>",
            ),
        ),
        l(
            "Archive",
            700,
            17,
            0,
            SHOP,
            ME,
            "Your order 19002 was sent",
            SEEN,
            "Work",
            Plain("Two parcels, 14 kg. Thank you for your order."),
        ),
        l(
            "Archive",
            900,
            18,
            0,
            YUKI,
            ME,
            "お礼",
            SEEN,
            "",
            Plain("先日はありがとうございました。とても楽しかったです。\n\n田中"),
        ),
        l(
            "Lists/wooden-boats",
            10,
            19,
            0,
            "Bo Ek <bo@eka.example>",
            LIST,
            "[wooden-boats] Bedding compound: what do you use?",
            NEW,
            "",
            Plain("All,\n\nwhat do you put under the keelson these days? I am out of the old stuff.\n\nBo"),
        ),
        l(
            "Lists/wooden-boats",
            9,
            20,
            19,
            "M. Aubert <aubert@chantier.example>",
            LIST,
            "Re: [wooden-boats] Bedding compound: what do you use?",
            NEW,
            "",
            Plain(
                "> what do you put under the keelson these days?\n\nPine tar and chalk, as my grandfather did. It never sets, and that is the point.\n\nM. A.",
            ),
        ),
        l(
            "Lists/wooden-boats",
            7,
            21,
            20,
            TOM,
            LIST,
            "Re: [wooden-boats] Bedding compound: what do you use?",
            NEW,
            "",
            Plain(
                ">> what do you put under the keelson these days?\n> Pine tar and chalk, as my grandfather did.\n\nSeconded. It smells right, too.\n\nTom",
            ),
        ),
        l(
            "Lists/wooden-boats",
            120,
            22,
            0,
            "R. Castellano <rc@gozzo.example>",
            LIST,
            "[wooden-boats] Regata: chi viene?",
            SEEN,
            "",
            Plain("Cari tutti,\n\nla regata è il 12. Chi porta una barca? Perché no?\n\nR."),
        ),
        l(
            "Junk",
            15,
            23,
            0,
            SPAM,
            ME,
            "=?utf-8?Q?You_have_w=C3=B6n?=",
            NEW,
            "$Junk",
            Html("Click to claim.", "<p style=\"color:red\"><b>CLICK</b> to claim your prize!</p>"),
        ),
        l("Junk", 40, 24, 0, SPAM, ME, "Second notice", NEW, "$Junk", Plain("You did not click. Why?")),
        l(
            "Trash",
            60,
            25,
            0,
            BANK,
            ME,
            "Scheduled maintenance on Sunday",
            SEEN,
            "",
            Plain("Our services are away from 2 to 4 on Sunday morning."),
        ),
    ]
}

impl Letter {
    /// The message as it is stored. `date`: for its Date line.
    pub(super) fn text(&self, date: &str) -> Vec<u8> {
        let mut text = String::new();
        let id = |number: u32| format!("<{number}.demo@rookery.example>");
        let _ = write!(
            text,
            "From: {}\r\nTo: {}\r\nSubject: {}\r\nDate: {date}\r\nMessage-ID: {}\r\n",
            mailbox_header(self.from),
            mailbox_header(self.to),
            encoded(self.subject),
            id(self.number),
        );
        if self.answers > 0 {
            let _ = write!(text, "In-Reply-To: {0}\r\nReferences: {0}\r\n", id(self.answers));
        }
        if self.mailbox.starts_with("Lists/") {
            text.push_str("List-Id: Wooden Boats <wooden-boats.lists.example>\r\n");
        }
        text.push_str("MIME-Version: 1.0\r\n");
        let boundary = format!("=_demo_{}", self.number);
        match &self.kind {
            Kind::Plain(body) => text.push_str(&part("text/plain; charset=utf-8", body)),
            Kind::Html(plain, html) => {
                let _ = write!(
                    text,
                    "Content-Type: multipart/alternative; boundary=\"{boundary}\"\r\n\r\n--{boundary}\r\n{}\r\n--{boundary}\r\n{}\r\n--{boundary}--\r\n",
                    part("text/plain; charset=utf-8", plain),
                    part("text/html; charset=utf-8", html),
                );
            }
            Kind::Attached(body, name, kind, content) => {
                let _ = write!(
                    text,
                    "Content-Type: multipart/mixed; boundary=\"{boundary}\"\r\n\r\n--{boundary}\r\n{}\r\n--{boundary}\r\n\
                     Content-Type: {kind}; name=\"{name}\"\r\nContent-Disposition: attachment; filename=\"{name}\"\r\n\
                     Content-Transfer-Encoding: base64\r\n\r\n{}\r\n--{boundary}--\r\n",
                    part("text/plain; charset=utf-8", body),
                    base64(content),
                );
            }
        }
        text.into_bytes()
    }

    /// Its keywords.
    pub(super) fn keywords(&self) -> Vec<Keyword> {
        Keyword::new(self.keyword).into_iter().collect()
    }
}

fn part(kind: &str, body: &str) -> String {
    let body = body.replace('\n', "\r\n");
    format!("Content-Type: {kind}\r\nContent-Transfer-Encoding: 8bit\r\n\r\n{body}\r\n")
}

/// `Name <address>` with the name encoded if it must be.
fn mailbox_header(text: &str) -> String {
    match text.rsplit_once(" <") {
        Some((name, address)) if name.is_ascii() => format!("\"{name}\" <{address}"),
        Some((name, address)) => format!("{} <{address}", encoded(name)),
        None => text.to_owned(),
    }
}

/// Unstructured header text (RFC 2047): as it stands if it is ASCII, else in encoded words.
fn encoded(text: &str) -> String {
    if text.is_ascii() {
        return text.to_owned();
    }
    let mut words = Vec::new();
    let mut word = String::new();
    for letter in text.chars() {
        // 45 octets are 60 letters of base64: a word of at most 75.
        if word.len() + letter.len_utf8() > 45 {
            words.push(std::mem::take(&mut word));
        }
        word.push(letter);
    }
    words.push(word);
    let words: Vec<String> =
        words.iter().map(|word| format!("=?utf-8?B?{}?=", base64(word.as_bytes()))).collect();
    words.join("\r\n ")
}

/// Base64 in lines of 76.
fn base64(octets: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for (at, three) in octets.chunks(3).enumerate() {
        if at > 0 && at % 19 == 0 {
            text.push_str("\r\n");
        }
        let bits = three.iter().fold(0_u32, |bits, octet| (bits << 8) | u32::from(*octet))
            << (8 * (3 - three.len()));
        for place in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * place) & 63) as usize];
            text.push(if place <= three.len() { char::from(letter) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_and_encoded_words() {
        for (octets, text) in
            [(&b""[..], ""), (b"f", "Zg=="), (b"fo", "Zm8="), (b"foo", "Zm9v"), (b"foob", "Zm9vYg==")]
        {
            assert_eq!(base64(octets), text);
        }
        assert_eq!(encoded("plain"), "plain");
        assert_eq!(encoded("Grüße"), "=?utf-8?B?R3LDvMOfZQ==?=");
    }

    #[test]
    fn every_letter_is_a_message() {
        let letters = letters();
        assert!(letters.len() >= 25);
        for letter in letters {
            let text = String::from_utf8(letter.text("Mon, 23 Nov 2026 22:18:09 +0000")).unwrap();
            let (header, _) = text.split_once("\r\n\r\n").unwrap();
            assert!(header.is_ascii(), "{header}");
            assert!(!text.replace("\r\n", "").contains(['\r', '\n']), "{text}");
            assert!(letter.answers == 0 || header.contains("In-Reply-To"), "{header}");
        }
    }
}
