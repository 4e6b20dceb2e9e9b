package archive

import (
	"bytes"
	"slices"
	"testing"

	"tarvm/archive/codec"
	"tarvm/delta"
)

func TestACLText(t *testing.T) {
	for _, c := range []struct{ value, want string }{
		{"", ""},
		{"\x02\x00\x00\x00", ""},
		{"\x01\x00\x00\x00", ""},
		{"\x02\x00\x00\x00\x01\x00\x06\x00", ""}, // cut off
		{"\x02\x00\x00\x00\x40\x00\x06\x00\xff\xff\xff\xff", ""},
		{
			"\x02\x00\x00\x00" + "\x01\x00\x06\x00\xff\xff\xff\xff" + "\x02\x00\x07\x00\x39\x30\x00\x00" + "\x04\x00\x04\x00\xff\xff\xff\xff" +
				"\x08\x00\x01\x00\xfe\xff\xff\xff" + "\x10\x00\x06\x00\xff\xff\xff\xff" + "\x20\x00\x00\x00\xff\xff\xff\xff",
			"user::rw-,user:12345:rwx,group::r--,group:4294967294:--x,mask::rw-,other::---",
		},
	} {
		if got := aclText(c.value); got != c.want {
			t.Errorf("aclText(%q) = %q, want %q", c.value, got, c.want)
		}
	}
}

// A locator has one form: what is parsed comes out again.
func FuzzParseLocator(f *testing.F) {
	var l locator
	f.Add(l.append(nil))
	l = locator{
		Frames: span{1 << 40, 4096}, FramesDecoded: 1<<63 - 1, Manifest: span{512, 1}, Blocks: span{1024, 0},
		Framed: delta.Sum([]byte("framed")), Structure: delta.Sum([]byte("structure")), ID: delta.Sum([]byte("id")),
	}
	good := l.append(nil)
	f.Add(good)
	f.Add(good[:len(good)-1])
	f.Add(bytes.Replace(good, []byte("frames 0"), []byte("frames -"), 1))
	f.Add(bytes.Replace(good, []byte("manifest"), []byte("manifest "), 1))
	f.Add(bytes.Replace(good, []byte("id "), []byte("id A"), 1))
	f.Add(bytes.ToUpper(good))
	if got, err := parseLocator(good); err != nil || *got != l {
		f.Fatalf("%+v, %v", got, err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := parseLocator(b)
		if err != nil {
			return
		}
		if again := l.append(nil); !bytes.Equal(again, b) || len(b) != locatorSize {
			t.Errorf("%q\ncomes out as\n%q", b, again)
		}
		for _, n := range []int64{l.Frames.Offset, l.Frames.Length, l.FramesDecoded, l.Manifest.Offset, l.Manifest.Length, l.Blocks.Offset, l.Blocks.Length} {
			if n < 0 {
				t.Errorf("%+v", l)
			}
		}
	})
}

// So does a table of frames, and it takes no more memory than its bytes allow.
func FuzzParseFrames(f *testing.F) {
	frames := []codec.Frame{{Encoded: 1, Decoded: 2}, {Encoded: 1<<32 - 1, Decoded: 64 << 20, Digest: [16]byte{1, 15: 2}}}
	good := appendFrames(nil, frames)
	f.Add(good)
	f.Add(good[:len(good)-1])
	f.Add(appendFrames(nil, nil))
	f.Add([]byte(framesMagic))
	f.Add(append([]byte(framesMagic), 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff))
	f.Add(append([]byte(framesMagic), 0xab, 0xaa, 0xaa, 0xaa, 0xaa, 0xaa, 0xaa, 0x0a)) // × 24 is 8, modulo 2^64
	if got, err := parseFrames(good); err != nil || !slices.Equal(got, frames) {
		f.Fatalf("%v, %v", got, err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		frames, err := parseFrames(b)
		if err != nil {
			return
		}
		if again := appendFrames(nil, frames); !bytes.Equal(again, b) {
			t.Errorf("%q\ncomes out as\n%q", b, again)
		}
	})
}
