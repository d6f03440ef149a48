//! SEARCH, SORT and THREAD, as a client sends them.

use super::command::CommandWriter;
use crate::imap::command::{
    DateField, DateTest, Search, SearchKey, SearchReturn, Sort, SortCriterion, Thread,
};
use crate::imap::parse::search::SORT_KEYS;
use rookery_types::SystemFlags;

impl CommandWriter {
    pub(crate) fn search(&mut self, search: &Search) {
        self.uid(search.uid);
        self.text("SEARCH ");
        self.returns(search.returns);
        if let Some(charset) = &search.charset {
            self.text("CHARSET ");
            self.astring(charset);
            self.text(" ");
        }
        self.keys(&search.key);
    }

    pub(crate) fn sort(&mut self, sort: &Sort) {
        self.uid(sort.uid);
        self.text("SORT ");
        self.returns(sort.returns);
        self.text("(");
        for (i, SortCriterion { reverse, key }) in sort.criteria.iter().enumerate() {
            self.text(if i > 0 { " " } else { "" });
            self.text(if *reverse { "REVERSE " } else { "" });
            self.text(SORT_KEYS.iter().find(|(one, _)| one == key).map_or("", |(_, name)| name));
        }
        self.text(") ");
        self.astring(&sort.charset);
        self.text(" ");
        self.keys(&sort.key);
    }

    pub(crate) fn thread(&mut self, thread: &Thread) {
        self.uid(thread.uid);
        self.text("THREAD ");
        self.atom(&thread.algorithm);
        self.text(" ");
        self.astring(&thread.charset);
        self.text(" ");
        self.keys(&thread.key);
    }

    fn returns(&mut self, returns: Option<SearchReturn>) {
        let Some(returns) = returns else { return };
        let options = [
            (returns.min, "MIN"),
            (returns.max, "MAX"),
            (returns.all, "ALL"),
            (returns.count, "COUNT"),
            (returns.save, "SAVE"),
        ];
        let names: Vec<&str> = options.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
        self.text("RETURN (");
        self.names(&names);
        if let Some(range) = returns.partial {
            self.text(if names.is_empty() { "PARTIAL " } else { " PARTIAL " });
            self.partial_range(range);
        }
        self.text(") ");
    }

    /// The keys of a whole command: an AND needs no parentheses there.
    fn keys(&mut self, key: &SearchKey) {
        match key {
            SearchKey::And(keys) if keys.len() > 1 => self.all(keys),
            key => self.key(key),
        }
    }

    fn all(&mut self, keys: &[SearchKey]) {
        for (i, key) in keys.iter().enumerate() {
            self.text(if i > 0 { " " } else { "" });
            self.key(key);
        }
    }

    fn key(&mut self, key: &SearchKey) {
        match key {
            SearchKey::And(keys) => {
                self.text("(");
                self.all(keys);
                self.text(")");
            }
            SearchKey::Or(one, other) => {
                self.text("OR ");
                self.key(one);
                self.text(" ");
                self.key(other);
            }
            SearchKey::Not(key) => {
                self.text("NOT ");
                self.key(key);
            }
            SearchKey::All => self.text("ALL"),
            SearchKey::Has(flag) => self.flag_key("", *flag),
            SearchKey::HasNot(flag) => self.flag_key("UN", *flag),
            SearchKey::Keyword(keyword) => {
                self.text("KEYWORD ");
                self.text(keyword.as_str());
            }
            SearchKey::Unkeyword(keyword) => {
                self.text("UNKEYWORD ");
                self.text(keyword.as_str());
            }
            SearchKey::Recent => self.text("RECENT"),
            SearchKey::New => self.text("NEW"),
            SearchKey::Old => self.text("OLD"),
            SearchKey::SaveDateSupported => self.text("SAVEDATESUPPORTED"),
            SearchKey::Date(field, test, day) => {
                self.text(match field {
                    DateField::Internal => "",
                    DateField::Sent => "SENT",
                    DateField::Saved => "SAVED",
                });
                self.text(match test {
                    DateTest::Before => "BEFORE ",
                    DateTest::On => "ON ",
                    DateTest::Since => "SINCE ",
                });
                self.day(day.0);
            }
            SearchKey::Sequence(set) => self.set(set),
            SearchKey::Uid(set) => {
                self.text("UID ");
                self.set(set);
            }
            _ => self.argument_key(key),
        }
    }

    fn flag_key(&mut self, prefix: &str, flag: SystemFlags) {
        let name = SystemFlags::ALL.iter().find(|(one, _)| *one == flag).map_or("", |(_, name)| name);
        self.text(prefix);
        self.atom(&name.trim_start_matches('\\').to_ascii_uppercase());
    }

    fn argument_key(&mut self, key: &SearchKey) {
        let mut numbered = |name: &str, n: u64| {
            self.text(name);
            self.number(n);
        };
        match key {
            SearchKey::Larger(octets) => numbered("LARGER ", *octets),
            SearchKey::Smaller(octets) => numbered("SMALLER ", *octets),
            SearchKey::Older(seconds) => numbered("OLDER ", seconds.get().into()),
            SearchKey::Younger(seconds) => numbered("YOUNGER ", seconds.get().into()),
            SearchKey::ModSeq { entry, modseq } => {
                self.text("MODSEQ ");
                if let Some((name, kind)) = entry {
                    self.entry(name, *kind);
                }
                self.number(*modseq);
            }
            SearchKey::EmailId(id) => {
                self.text("EMAILID ");
                self.object_id(id);
            }
            SearchKey::ThreadId(id) => {
                self.text("THREADID ");
                self.object_id(id);
            }
            SearchKey::Header { field, value } => {
                self.text("HEADER ");
                self.astring(field);
                self.text(" ");
                self.astring(value);
            }
            SearchKey::Bcc(text) => self.text_key("BCC ", text),
            SearchKey::Body(text) => self.text_key("BODY ", text),
            SearchKey::Cc(text) => self.text_key("CC ", text),
            SearchKey::From(text) => self.text_key("FROM ", text),
            SearchKey::Subject(text) => self.text_key("SUBJECT ", text),
            SearchKey::Text(text) => self.text_key("TEXT ", text),
            SearchKey::To(text) => self.text_key("TO ", text),
            _ => {}
        }
    }

    fn text_key(&mut self, name: &str, text: &[u8]) {
        self.text(name);
        self.astring(text);
    }
}
