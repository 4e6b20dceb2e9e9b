package codec_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"tarvm/archive/archivetest"
	"tarvm/archive/codec"
	"tarvm/archive/codec/all"
)

// run runs a foreign program with stdin and returns what it writes. It must say nothing.
func run(t testing.TB, stdin []byte, name string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(archivetest.Tool(t, name), args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, stderr.String())
	}
	if stderr.Len() > 0 {
		t.Errorf("%s %q says: %s", name, args, stderr.String())
	}
	return stdout.Bytes()
}

// program is the stock program of a codec.
func program(t testing.TB, c codec.Codec) string {
	if c.Name() == "none" {
		t.Skip("has no program")
	}
	archivetest.Tool(t, c.Name())
	return c.Name()
}

// The stock program decodes what Writer writes, and finds nothing to say about it.
func TestToolsDecode(t *testing.T) {
	each(t, func(t *testing.T, c codec.Codec) {
		prog := program(t, c)
		text := content(150_000, 11)
		l := c.Levels()
		cases := map[string]archive{
			"frames": write(t, c, codec.WriterOptions{FrameSize: 40_000}, step{"write", text}, step{"cut", nil}, step{"write", text[:1]},
				step{"frame", text[5000:9000]}, step{"stored", text[:2048]}),
			"empty frame": write(t, c, codec.WriterOptions{}, step{"frame", nil}, step{"frame", text[:300]}, step{"frame", nil}),
			"tiny frames": write(t, c, codec.WriterOptions{FrameSize: 1}, step{"write", text[:40]}),
			"stored":      write(t, c, codec.WriterOptions{}, step{"stored", text[:256]}, step{"stored", text[:codec.MaxStored]}),
		}
		for n := 255; n <= 257; n++ { // the size's field of zstd changes here, and at 65,792
			cases[fmt.Sprint(n, " bytes")] = write(t, c, codec.WriterOptions{}, step{"frame", text[:n]}, step{"frame", text[:n+65536]})
		}
		for level := l.Min; level <= l.Max; level++ {
			if !quick() && (c.Name() != "xz" || level%3 == 0) {
				cases[fmt.Sprint("level ", level)] = write(t, c, codec.WriterOptions{Level: &level}, step{"write", text})
			}
		}
		if !quick() && c.Name() != "xz" { // more than one frame of the codec's size, and more than one block of lz4
			big := content(9<<20+5, 12)
			cases["large"] = write(t, c, codec.WriterOptions{}, step{"write", big[:5<<20]}, step{"frame", big}, step{"write", nil})
		}
		for name, a := range cases {
			t.Run(name, func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "a"+c.Suffixes()[0])
				if err := os.WriteFile(path, a.encoded, 0o600); err != nil {
					t.Fatal(err)
				}
				if s := diff(run(t, nil, prog, "-dc", path), a.data); s != "" {
					t.Errorf("from a file: %s", s)
				}
				if s := diff(run(t, a.encoded, prog, "-dc"), a.data); s != "" {
					t.Errorf("from a pipe: %s", s)
				}
				args := []string{"-t", path}
				if prog == "zstd" || prog == "lz4" {
					args = []string{"-q", "-t", path} // else they report success
				}
				if out := run(t, nil, prog, args...); len(out) > 0 {
					t.Errorf("%s %q writes %q", prog, args, out)
				}
			})
		}
	})
}

// zstd and xz count the frames that the table lists; for zstd the table is one more, which is skipped.
func TestToolsList(t *testing.T) {
	for name, want := range map[string][]string{"zstd": {"5", "1"}, "xz": {"4"}} {
		t.Run(name, func(t *testing.T) {
			c := codec.ByName(all.Codecs(), name)
			a := write(t, c, codec.WriterOptions{FrameSize: 40_000}, step{"write", content(100_000, 1)}, step{"stored", content(300, 2)})
			path := filepath.Join(t.TempDir(), "a"+c.Suffixes()[0])
			if err := os.WriteFile(path, a.encoded, 0o600); err != nil {
				t.Fatal(err)
			}
			lines := strings.Split(strings.TrimSpace(string(run(t, nil, program(t, c), "-l", path))), "\n")
			if last := strings.Fields(lines[len(lines)-1]); len(last) < len(want) || !slices.Equal(last[:len(want)], want) {
				t.Errorf("%d frames, the program lists %q", len(a.frames), last)
			}
		})
	}
}

// foreign are command lines that make streams which this project never writes. With a name in the second field
// the program reads a file of that name instead of its input.
var foreign = map[string][]struct {
	name, file string
	args       []string
}{
	"zstd": {
		{"fast", "", []string{"--fast=5"}},
		{"1", "", []string{"-1"}},
		{"19", "", []string{"-19"}},
		{"no checksum", "", []string{"--no-check"}},
		{"checksum", "", []string{"--check"}},
		{"from a file", "disk.img", []string{"-3", "--check"}},
		{"no size", "disk.img", []string{"--no-content-size"}},
		{"long", "", []string{"--long=27"}},
		{"long from a file", "disk.img", []string{"--long=27"}},
		{"threads", "", []string{"-T2", "-B65536"}},
	},
	"gzip": {
		{"1", "", []string{"-1"}},
		{"6", "", nil},
		{"9", "", []string{"-9"}},
		{"named", "disk image.img", nil},
		{"not named", "disk.img", []string{"-n"}},
		{"rsyncable", "", []string{"--rsyncable"}},
	},
	"xz": {
		{"0", "", []string{"-0"}},
		{"6", "", nil},
		{"9 extreme", "", []string{"-9e"}},
		{"blocks", "", []string{"--block-size=20000"}},
		{"blocks with sizes", "", []string{"-T2", "--block-size=50000"}},
		{"uneven blocks", "", []string{"--block-list=1,2,3,5000,0"}},
		{"no check", "", []string{"--check=none"}},
		{"crc32", "", []string{"--check=crc32"}},
		{"sha256", "", []string{"--check=sha256"}},
		{"small dictionary", "", []string{"--lzma2=dict=4KiB,lc=0,lp=2,pb=0"}},
	},
	"lz4": {
		{"1", "", []string{"-1"}},
		{"9", "", []string{"-9"}},
		{"12", "", []string{"-12"}},
		{"fast", "", []string{"--fast=9"}},
		{"linked", "", []string{"-BD"}},
		{"linked small blocks", "", []string{"-BD", "-B4"}},
		{"linked, high compression", "", []string{"-9", "-BD", "-B4", "-BX"}},
		{"small blocks", "", []string{"-B4", "-BI"}},
		{"block checksums", "", []string{"-B5", "-BX"}},
		{"no checksum", "", []string{"--no-frame-crc"}},
		{"size", "disk.img", []string{"--content-size"}},
	},
}

// The codec decodes what its stock program writes, however it comes.
func TestToolsEncode(t *testing.T) {
	each(t, func(t *testing.T, c codec.Codec) {
		prog := program(t, c)
		dir := t.TempDir()
		inputs := map[string][]byte{"empty": nil, "a byte": {'x'}, "text": []byte(strings.Repeat("line\n", 2000)), "mixed": content(250_000, 21)}
		if quick() {
			inputs["mixed"] = content(70_000, 21)
		}
		for _, f := range foreign[c.Name()] {
			t.Run(f.name, func(t *testing.T) {
				var whole, both []byte
				for name, in := range inputs {
					args := append([]string{"-q", "-c"}, f.args...)
					if f.file != "" {
						path := filepath.Join(dir, f.file)
						if err := os.WriteFile(path, in, 0o600); err != nil {
							t.Fatal(err)
						}
						args = append(args, path)
					}
					b := run(t, in, prog, args...)
					if !c.Match(b[:min(len(b), codec.HeadLen)]) {
						t.Errorf("%s: not recognized: %x", name, b[:min(len(b), 16)])
					}
					checkStream(t, c, name, b, in)
					whole, both = append(whole, in...), append(both, b...)
				}
				checkStream(t, c, "one after the other", both, whole)
				ours := small(t, c)
				checkStream(t, c, "before ours", append(both, ours.encoded...), append(whole, ours.data...))
			})
		}
	})
}

// checkStream decodes b from readers of different manners.
func checkStream(t *testing.T, c codec.Codec, name string, b, want []byte) {
	t.Helper()
	for manner, src := range map[string]func() io.Reader{
		"buffer":   func() io.Reader { return bytes.NewBuffer(b) },
		"half":     func() io.Reader { return iotest.HalfReader(bytes.NewReader(b)) },
		"one byte": func() io.Reader { return iotest.OneByteReader(bytes.NewReader(b)) },
		"late EOF": func() io.Reader { return iotest.DataErrReader(bytes.NewReader(b)) },
	} {
		if manner == "one byte" && (quick() || len(b) > 100_000) || manner == "half" && quick() {
			continue
		}
		for way, open := range map[string]func(io.Reader) (io.ReadCloser, error){
			"NewReader": c.NewReader,
			"Open":      func(r io.Reader) (io.ReadCloser, error) { return codec.Open(all.Codecs(), r) },
		} {
			r, err := open(src())
			if err != nil {
				t.Errorf("%s: %s: %s: %v", name, way, manner, err)
				continue
			}
			if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: %s: %s: %s, %v", name, way, manner, diff(got, want), err)
			}
			if n, err := r.Read(make([]byte, 10)); n != 0 || err != io.EOF {
				t.Errorf("%s: %s: %s: %d bytes behind the end, %v", name, way, manner, n, err)
			}
			if err := r.Close(); err != nil {
				t.Errorf("%s: %s: %s: %v", name, way, manner, err)
			}
		}
	}
}

// What stands between and behind frames, and is no data, is passed over as the program does.
func TestPadding(t *testing.T) {
	skip := "\x5a\x2a\x4d\x18\x05\x00\x00\x00noise"
	long := "\x50\x2a\x4d\x18\xd0\x07\x00\x00" + strings.Repeat("n", 2000)
	for _, tt := range []struct {
		codec, name, before, between, behind string
	}{
		{"zstd", "skippable frame", skip, skip, skip},
		{"zstd", "long skippable frames", long + skip, long, long},
		{"lz4", "skippable frame", skip, skip, skip},
		{"lz4", "long skippable frames", long + skip, long, long},
		{"xz", "stream padding", "", strings.Repeat("\x00", 8), strings.Repeat("\x00", 512)},
		{"gzip", "zeros behind", "", "", strings.Repeat("\x00", 1000)},
		{"gzip", "one zero behind", "", "", "\x00"},
	} {
		t.Run(tt.codec+" "+tt.name, func(t *testing.T) {
			c := codec.ByName(all.Codecs(), tt.codec)
			a := small(t, c)
			b := []byte(tt.before + string(a.encoded) + tt.between + string(a.encoded) + tt.behind)
			want := append(a.data, a.data...)
			if s := diff(run(t, b, program(t, c), "-dc"), want); s != "" {
				t.Fatalf("the program: %s", s)
			}
			checkStream(t, c, tt.name, b, want)
		})
	}
}

// Both the program and the codec refuse these.
func TestToolsRefuse(t *testing.T) {
	each(t, func(t *testing.T, c codec.Codec) {
		prog := program(t, c)
		a := small(t, c)
		for name, b := range map[string][]byte{
			"noise behind":        append(bytes.Clone(a.encoded), "no frame at all, but long enough for a header"...),
			"a header begins":     append(bytes.Clone(a.encoded), a.encoded[:3]...),
			"zeros, then a frame": append(append(bytes.Clone(a.encoded), make([]byte, 5)...), a.encoded...),
		} {
			cmd := exec.Command(prog, "-dc")
			cmd.Stdin = bytes.NewReader(b)
			var exit *exec.ExitError
			if err := cmd.Run(); err == nil {
				t.Errorf("%s: %s takes it", name, prog)
			} else if !errors.As(err, &exit) {
				t.Error(err)
			}
			if got, err := decode(c, b, 1<<20); err == nil {
				t.Errorf("%s: %d bytes without an error", name, len(got))
			}
			if got, err := decodeAny(all.Codecs(), b, 1<<20); err == nil {
				t.Errorf("%s: Open: %d bytes without an error", name, len(got))
			}
		}
	})
}
