"""xva.py FILE DIR: reads an XVA by its records alone, prints the machine as JSON, and puts its disks together in DIR.

Each field is looked up as xapi does: a VM lists its VBDs and VIFs, a VBD names its VDI, a VDI's id names its blocks.
Blocks that are not there are zero; the first and the last must be.
"""

import json
import os
import sys
import tarfile
import xmlrpc.client

MIB = 1 << 20
tar = tarfile.open(sys.argv[1], "r:")
first = tar.next()
if first.name != "ova.xml":
    sys.exit("first member: " + first.name)
text = tar.extractfile(first).read().decode()
text = text[text.index("<value>"):]
(value,), _ = xmlrpc.client.loads("<params><param>" + text + "</param></params>")
if value["version"]["export_vsn"] != "2":
    sys.exit("export_vsn " + value["version"]["export_vsn"])
objects = {}
for o in value["objects"]:
    if o["id"] in objects:
        sys.exit("twice: " + o["id"])
    objects[o["id"]] = o


def snapshot(ref, kind):
    if objects[ref]["class"] != kind:
        sys.exit("%s is a %s, not a %s" % (ref, objects[ref]["class"], kind))
    return objects[ref]["snapshot"]


(ref,) = [o["id"] for o in value["objects"] if o["class"] == "VM"]
vm = snapshot(ref, "VM")
vbds = []
for r in vm["VBDs"]:
    v = snapshot(r, "VBD")
    if v["VM"] != ref:
        sys.exit("a VBD of " + v["VM"])
    b = {"Device": v["userdevice"], "Type": v["type"], "Content": "", "Size": 0}
    if v["type"] == "Disk":
        d = snapshot(v["VDI"], "VDI")
        snapshot(d["SR"], "SR")
        if r not in d["VBDs"]:
            sys.exit("the VDI does not know " + r)
        b["Content"], b["Size"] = v["VDI"], int(d["virtual_size"])
    vbds.append(b)
vifs = []
for r in vm["VIFs"]:
    v = snapshot(r, "VIF")
    snapshot(v["network"], "network")
    vifs.append({"Device": v["device"], "MAC": v["MAC"]})

sizes = {b["Content"]: b["Size"] for b in vbds if b["Content"]}
blocks = {r: set() for r in sizes}
order = []
after = None
for m in tar:
    if m is first:
        continue
    name, _, block = m.name.partition("/")
    if after:
        if m.name != after + ".xxhash" or m.size != 16:
            sys.exit("%s behind %s" % (m.name, after))
        after = None
        continue
    if name not in sizes or len(block) != 8 or m.size != MIB:
        sys.exit("member %s of %d bytes" % (m.name, m.size))
    if not order or order[-1] != name:
        if name in order:
            sys.exit("blocks of %s in two places" % name)
        order.append(name)
    n = int(block)
    if blocks[name] and n <= max(blocks[name]):
        sys.exit("out of order: " + m.name)
    blocks[name].add(n)
    with open(os.path.join(sys.argv[2], name), "ab") as f:
        f.truncate(sizes[name])
    with open(os.path.join(sys.argv[2], name), "r+b") as f:
        f.seek(n * MIB)
        f.write(tar.extractfile(m).read())
    after = m.name
for r, size in sizes.items():
    if not {0, size // MIB - 1} <= blocks[r] or size % MIB:
        sys.exit("%s: %d bytes, blocks %s" % (r, size, sorted(blocks[r])))
    if os.path.getsize(os.path.join(sys.argv[2], r)) != size:
        sys.exit("%s grew" % r)

json.dump({
    "Name": vm["name_label"], "UUID": vm["uuid"], "Memory": vm["memory_static_max"], "CPUs": vm["VCPUs_max"],
    "Firmware": vm["HVM_boot_params"].get("firmware", "bios"), "VBDs": vbds, "VIFs": vifs,
}, sys.stdout)
