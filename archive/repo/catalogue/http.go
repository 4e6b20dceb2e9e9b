package catalogue

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// HTTP says how to talk to servers. The zero value will do.
type HTTP struct {
	// Client makes the requests; nil: http.DefaultClient. What it does with redirects is asked after the rule
	// that https stays https.
	Client *http.Client
	// Retries is how often in a row a request is made again that brought nothing; 0: 5 times, less: never.
	Retries int
	// Backoff is the wait before the first of them, which doubles up to maxBackoff; 0: half a second.
	Backoff time.Duration
	// Stall is how long nothing may come; 0: a minute.
	Stall time.Duration
	// OnRetry, unless it is nil, is told why and after what wait a request is made again.
	OnRetry func(err error, wait time.Duration)
}

const (
	maxBackoff    = 30 * time.Second
	maxRetryAfter = 5 * time.Minute // a server that wants a longer rest gets it: the error says so
	maxRedirects  = 10
)

func (h HTTP) withDefaults() HTTP {
	var c http.Client
	if h.Client != nil {
		c = *h.Client
	}
	asked := c.CheckRedirect
	c.CheckRedirect = func(req *http.Request, via []*http.Request) error {
		if s := req.URL.Scheme; s != "https" && (s != "http" || via[len(via)-1].URL.Scheme == "https") {
			return &RedirectError{From: bare(via[len(via)-1].URL), To: bare(req.URL)}
		}
		req.Header.Del("Referer") // the query of the URL before, which may be secret
		if asked != nil {
			return asked(req, via)
		}
		if len(via) >= maxRedirects {
			return fmt.Errorf("%w: more than %d redirects", errPermanent, maxRedirects)
		}
		return nil
	}
	h.Client = &c
	switch {
	case h.Retries == 0:
		h.Retries = 5
	case h.Retries < 0:
		h.Retries = 0
	}
	if h.Backoff <= 0 {
		h.Backoff = time.Second / 2
	}
	if h.Stall <= 0 {
		h.Stall = time.Minute
	}
	return h
}

var (
	// ErrStalled: for longer than HTTP.Stall nothing came.
	ErrStalled = errors.New("nothing came for too long")

	errPermanent = errors.New("the server cannot be used")
)

// A StatusError is a server's answer that is no success.
type StatusError struct {
	Code       int
	RetryAfter time.Duration // what the server asked to wait, 0 if it did not
}

func (e *StatusError) Error() string {
	s := fmt.Sprintf("the server says %d %s", e.Code, http.StatusText(e.Code))
	if e.RetryAfter > 0 {
		s += fmt.Sprintf(", and to come back in %v", e.RetryAfter)
	}
	return s
}

// temporary reports whether the same request may succeed later.
func (e *StatusError) temporary() bool {
	switch e.Code {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return true
	case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported:
		return false
	}
	return e.Code >= 500
}

// A RedirectError is a redirect that was not followed: from https to anything else, or to what is not http.
type RedirectError struct{ From, To string }

func (e *RedirectError) Error() string {
	return fmt.Sprintf("%s redirects to %s, which is less secure; it is not followed", e.From, e.To)
}

// temporary reports whether trying again may help. What is not known may be a fault of the network.
func temporary(err error) bool {
	var status *StatusError
	var redirect *RedirectError
	var size *SizeError
	var cert *tls.CertificateVerificationError
	var dns *net.DNSError
	switch {
	case errors.As(err, &status):
		return status.temporary() && status.RetryAfter <= maxRetryAfter
	case errors.As(err, &dns):
		return !dns.IsNotFound || dns.IsTemporary
	}
	return !errors.Is(err, errPermanent) && !errors.As(err, &redirect) && !errors.As(err, &size) && !errors.As(err, &cert)
}

// A patience counts how often in a row something brought nothing.
type patience struct {
	h        *HTTP
	failures int
}

// after waits before another attempt. It returns err if there is none, and that of the context when that has ended.
func (p *patience) after(ctx context.Context, err error, progress bool) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if progress {
		p.failures = 0
	}
	if p.failures >= p.h.Retries || !temporary(err) {
		return err
	}
	wait := min(p.h.Backoff<<min(p.failures, 16), maxBackoff)
	wait = wait/2 + rand.N(wait/2+1) // so that those who lost a server together do not come back together
	var status *StatusError
	if errors.As(err, &status) {
		wait = max(wait, status.RetryAfter)
	}
	p.failures++
	if p.h.OnRetry != nil {
		p.h.OnRetry(err, wait)
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// retryAfter reads the header of that name: seconds, or a date.
func retryAfter(h http.Header, now time.Time) time.Duration {
	s := h.Get("Retry-After")
	if n, err := strconv.ParseUint(s, 10, 31); err == nil {
		return time.Duration(n) * time.Second
	}
	if t, err := http.ParseTime(s); err == nil {
		return max(0, t.Sub(now).Round(time.Second))
	}
	return 0
}

// get makes one request and hands its answer over, with a body that fails when nothing comes. Answers from 400 on are
// *StatusError, but for one that the request's range asked for.
func (h *HTTP) get(ctx context.Context, u *url.URL, header http.Header, answer func(*http.Response) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := time.AfterFunc(h.Stall, func() { cancel(ErrStalled) })
	defer watch.Stop()
	err := func() error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), http.NoBody)
		if err != nil {
			return fmt.Errorf("%w: %w", errPermanent, plain(err))
		}
		req.Header = header
		req.Header.Set("User-Agent", "tarvm")
		resp, err := h.Client.Do(req)
		if err != nil {
			return plain(err)
		}
		defer resp.Body.Close()
		resp.Body = &watched{ReadCloser: resp.Body, watch: watch, stall: h.Stall}
		switch s := resp.StatusCode; {
		case s == http.StatusRequestedRangeNotSatisfiable && header.Get("Range") != "":
		case s >= 400:
			return &StatusError{Code: s, RetryAfter: retryAfter(resp.Header, time.Now())}
		case s != http.StatusOK && s != http.StatusPartialContent:
			return fmt.Errorf("%w: it answers %d", errPermanent, s)
		}
		return answer(resp)
	}()
	if err != nil && errors.Is(context.Cause(ctx), ErrStalled) {
		return fmt.Errorf("%w: %v", ErrStalled, h.Stall)
	}
	return err
}

// plain takes the URL out of an error: it may have a password or a signature in its query.
func plain(err error) error {
	var ue *url.Error
	if errors.As(err, &ue) {
		return ue.Err
	}
	return err
}

// watched is a body whose bytes put off the time at which nothing came for too long.
type watched struct {
	io.ReadCloser
	watch *time.Timer
	stall time.Duration
}

func (w *watched) Read(p []byte) (int, error) {
	w.watch.Reset(w.stall) // what was done with the bytes before may have taken long
	n, err := w.ReadCloser.Read(p)
	if n > 0 {
		w.watch.Reset(w.stall)
	}
	return n, err
}
