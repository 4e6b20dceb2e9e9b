#!/usr/bin/env python3
"""restore.py TARGET FULL [INCREMENT...]
Rebuilds the directory of a virtual machine from tarvm's archives, without tarvm: the full one first, then each increment in order.
Needs Python 3.6 and the program that decompresses (zstd, gzip, xz, lz4), which checks its checksums; BLAKE3 digests are not checked."""
import base64, calendar, json, os, shutil, struct, subprocess, sys, tarfile, time
TOOLS = {b"\x28\xb5\x2f\xfd": "zstd", b"\x1f\x8b": "gzip", b"\xfd7zX": "xz", b"\x04\x22\x4d\x18": "lz4"}
PIECE = 1 << 16
def die(*words):
    sys.exit("restore.py: " + " ".join(map(str, words)))
def name(p):  # a path in JSON: text, or base64 when it is not UTF-8
    return p if isinstance(p, str) else os.fsdecode(base64.b64decode(p["base64"]))
def inside(base, p):
    if p.startswith("/") or ".." in p.split("/") or "\0" in p:
        die("unsafe name", repr(p))
    return os.path.normpath(os.path.join(base, p))
def put(out, at, data):  # writes data, but no zeros where zeros are
    for i in range(0, len(data), PIECE):
        b = data[i:i + PIECE]
        out.seek(at + i)
        if b.count(0) < len(b) or out.read(len(b)).count(0) < len(b):
            out.seek(at + i)
            out.write(b)
def copy(out, at, src, off, n):
    if off:  # what comes from a pipe cannot seek
        src.seek(off)
    while n:
        b = src.read(min(n, PIECE))
        if not b:
            die("source of a copy is too short:", src.name)
        put(out, at, b)
        at, n = at + len(b), n - len(b)
def uvarint(b, p):
    v = s = 0
    while b[p] > 127:
        v, s, p = v | (b[p] & 127) << s, s + 7, p + 1
    return v | b[p] << s, p + 1
def create(p, size):
    f = inside(NEW, p)
    os.makedirs(os.path.dirname(f), exist_ok=True)
    out = open(f, "w+b")
    out.truncate(size)
    return out
def whole(m, f):
    with create(m.name, m.size) as out:
        copy(out, 0, f, 0, m.size)
def segment(p, first, b):
    magic, at, end, size, head, ndata, nsrc, nops = struct.unpack_from("<8s5Q2I", b)
    if magic != b"TARVMDL1":
        die("no delta segment of", p)
    pos, srcs, data, last = 56, [], head, 0
    while len(srcs) < nsrc:
        n = b[pos] | b[pos + 1] << 8
        srcs.append(os.fsdecode(b[pos + 2:pos + 2 + n]))
        pos += 2 + n
    if first:  # the new file begins as the old one
        old = inside(ROOT, p)
        with create(p, size) as out:
            if os.path.isfile(old) and not os.path.islink(old):
                copy(out, 0, open(old, "rb"), 0, min(size, os.path.getsize(old)))
    with open(inside(NEW, p), "r+b") as out:
        stop = pos + nops
        while pos < stop:
            v, pos = uvarint(b, pos)
            kind, n = v & 7, v >> 3
            if kind == 1:
                copy(out, at, open("/dev/zero", "rb"), 0, n)
            elif kind == 2:
                put(out, at, b[data:data + n])
                data += n
            elif kind in (3, 4):
                s, pos = uvarint(b, pos)
                move, pos = uvarint(b, pos)
                off = last + (move >> 1 ^ -(move & 1))
                last = off + n
                out.flush()  # the source may be this file
                copy(out, at, open(inside(ROOT if kind == 3 else NEW, srcs[s]), "rb"), off, n)
            elif kind:
                die("operation", kind, "needs a later version of this script")
            at += n
def apply(path, before):
    magic, manifest = open(path, "rb").read(4), None
    tool = TOOLS.get(magic) or TOOLS.get(magic[:2])
    proc = subprocess.Popen([tool, "-dc", path] if tool else ["cat", path], stdout=subprocess.PIPE)
    with tarfile.open(fileobj=proc.stdout, mode="r|") as tar:
        for m in tar:
            f = tar.extractfile(m) if m.isreg() else None
            if m.name == ".tarvm/entry.json":
                parent = json.load(f).get("parent", {}).get("id")
                if parent != before:
                    die(path, "is out of order: it needs the entry", parent, "- here is", before)
            elif m.name.startswith(".tarvm/delta/"):
                segment(m.name[13:-9], m.name.endswith("/00000000"), f.read())
            elif m.name == ".tarvm/manifest.json":
                manifest = json.load(f)
            elif f and not m.name.startswith(".tarvm/"):
                whole(m, f)
    proc.stdout.read()  # what follows the end of the tar
    if proc.wait() or manifest is None:
        die(path, "is damaged, or not an archive of tarvm")
    finish([m["state"] for m in manifest["members"]])
    return manifest["id"]
def finish(states):
    want = {name(s["path"]): s for s in states}
    for d, dirs, files in os.walk(ROOT, topdown=False):
        for f in dirs + files:
            full = os.path.join(d, f)
            rel = os.path.relpath(full, ROOT)
            isdir = os.path.isdir(full) and not os.path.islink(full)
            if rel not in want or isdir != (want[rel]["type"] == "dir"):
                shutil.rmtree(full) if isdir else os.unlink(full)
    for p, s in want.items():
        full, new, kind = inside(ROOT, p), inside(NEW, p), s["type"]
        if kind == "dir":
            os.makedirs(full, exist_ok=True)
            os.chmod(full, 0o700)
        elif os.path.lexists(full) and (kind != "file" or os.path.lexists(new)):
            os.unlink(full)
        if kind == "file" and os.path.lexists(new):
            os.rename(new, full)
        if kind == "file" and os.path.getsize(full) != s["size"]:
            die(p, "has not the size that it should have")
        if kind == "symlink":
            os.symlink(name(s["target"]), full)
        if kind == "link":
            os.link(inside(ROOT, name(s["target"])), full)
        if kind == "fifo":
            os.mkfifo(full)
    shutil.rmtree(NEW, ignore_errors=True)
    for p, s in reversed(list(want.items())):  # directories after their content
        full, link = inside(ROOT, p), s["type"] == "symlink"
        if os.geteuid() == 0:
            os.chown(full, s["uid"], s["gid"], follow_symlinks=False)
        if not link:
            os.chmod(full, int(s["mode"], 8))
        for k, v in s.get("xattrs", {}).items() if hasattr(os, "setxattr") else ():
            os.setxattr(full, k, base64.b64decode(v), follow_symlinks=False)
        t, _, frac = s["mtime"].rstrip("Z").partition(".")
        sec = calendar.timegm(time.strptime(t, "%Y-%m-%dT%H:%M:%S")) if "T" in t else int(t)
        ns = sec * 10**9 + int(frac.ljust(9, "0"))
        os.utime(full, ns=(ns, ns), follow_symlinks=False)

if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    ROOT, NEW, done = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[1]) + ".tarvm-new", None
    os.makedirs(ROOT, exist_ok=True)
    if os.listdir(ROOT):
        die(ROOT, "is not empty")
    for archive in sys.argv[2:]:
        done = apply(archive, done)
