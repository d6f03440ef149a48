"""HOST PORT LMTP-PORT USER PASSWORD: what a program written against Python's imaplib does in a day."""
import imaplib
import smtplib
import socket
import sys

host, port, lmtp, user, password = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5]
socket.setdefaulttimeout(60)


def ok(answer):
    assert answer[0] == "OK", answer
    return answer[1]


box = imaplib.IMAP4(host, port)
assert "IMAP4REV1" in box.capabilities, box.capabilities
try:
    box.login(user, "not the password")
    raise SystemExit("a wrong password was taken")
except imaplib.IMAP4.error:
    pass
ok(box.login(user, password))
assert ok(box.select("INBOX")) == [b"0"]

texts = [
    f"From: a@example.net\r\nSubject: number {n}\r\nMessage-ID: <{n}@example.net>\r\n\r\nbody {n}\r\n".encode()
    for n in (1, 2, 3)
]
for text in texts:
    ok(box.append("INBOX", r"(\Flagged)", imaplib.Time2Internaldate(1_700_000_000), text))
ok(box.noop())

assert ok(box.search(None, "SUBJECT", '"number 2"')) == [b"2"]
assert ok(box.search(None, "FLAGGED")) == [b"1 2 3"]
assert ok(box.uid("SEARCH", "UNSEEN")) == [b"1 2 3"]
data = ok(box.fetch("2", "(BODY.PEEK[] INTERNALDATE RFC822.SIZE)"))
assert data[0][1] == texts[1], data
assert b"RFC822.SIZE %d" % len(texts[1]) in data[0][0] + data[1], data
when = imaplib.Internaldate2tuple(data[0][0] + data[1])
import calendar, time
assert time.mktime(when) == 1_700_000_000, when

ok(box.store("2", "+FLAGS", r"(\Seen $Forwarded)"))
flags = imaplib.ParseFlags(ok(box.fetch("2", "(FLAGS)"))[0])
assert set(flags) >= {b"\\Seen", b"\\Flagged", b"$Forwarded"}, flags
ok(box.store("2", "-FLAGS", r"(\Flagged)"))
assert ok(box.search(None, "UNFLAGGED")) == [b"2"]

ok(box.create("Tr&AOk-s")), ok(box.subscribe("Tr&AOk-s"))
assert any(b"Tr&AOk-s" in line for line in ok(box.list()))
assert any(b"Tr&AOk-s" in line for line in ok(box.lsub()))
ok(box.copy("1:2", "Tr&AOk-s"))
assert b"MESSAGES 2" in ok(box.status("Tr&AOk-s", "(MESSAGES UIDNEXT)"))[0]
ok(box.rename("Tr&AOk-s", "Done"))

ok(box.store("1", "+FLAGS", r"(\Deleted)"))
assert ok(box.expunge()) == [b"1"]
assert ok(box.search(None, "ALL")) == [b"1 2"]
assert ok(box.uid("SEARCH", "ALL")) == [b"2 3"]

# IDLE by hand: imaplib of this age does not know it.
tag = box._new_tag()
box.send(tag + b" IDLE\r\n")
assert box.readline().startswith(b"+")
with smtplib.LMTP(host, lmtp) as agent:
    refused = agent.sendmail("b@example.net", [user], texts[2])
    assert not refused, refused
line = b""
while not line.endswith(b"EXISTS\r\n"):
    line = box.readline()
assert line == b"* 3 EXISTS\r\n", line
box.send(b"DONE\r\n")
line = b""
while not line.startswith(tag):
    line = box.readline()
assert line.startswith(tag + b" OK"), line

ok(box.close())
ok(box.select("Done"))
ok(box.unselect())
ok(box.delete("Done"))
assert box.logout()[0] == "BYE"
