package vmdir

import "os"

// Nameless makes a temporary file in dir ("": the system's directory for these), of which nothing is left when the process
// ends, however it ends. Name is empty, but where an open file cannot be removed: then the caller removes it. What follows
// from pattern is as of os.CreateTemp.
func Nameless(dir, pattern string) (f *os.File, name string, err error) {
	if dir == "" {
		dir = os.TempDir()
	}
	if f = nameless(dir); f != nil {
		return f, "", nil
	}
	if f, err = os.CreateTemp(dir, pattern); err != nil {
		return nil, "", err
	}
	if os.Remove(f.Name()) != nil {
		name = f.Name()
	}
	return f, name, nil
}
