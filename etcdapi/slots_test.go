package etcdapi

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

// TestConnectionLimit: beyond the bound a connection is served once another has ended,
// whichever listener it came to; the port of metrics does not share the bound.
func TestConnectionLimit(t *testing.T) {
	s, first := serveOn(t, newMemory(t), Config{MaxConnections: 2}, Endpoint{})
	listen := func(traffic Traffic) string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		go func() { _ = s.ServeOn(Endpoint{Listener: l, Traffic: traffic}) }() // the server's end is its own
		return l.Addr().String()
	}
	second, metrics := listen(TrafficHTTP), listen(TrafficMetrics)
	dial := func(address string) net.Conn {
		t.Helper()
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		if _, err := io.WriteString(c, "GET /health HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		return c
	}
	answered := func(c net.Conn) {
		t.Helper()
		answer, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		_ = answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			t.Fatal(answer.Status)
		}
	}
	held := dial(first)
	answered(held)
	answered(dial(second))
	waiting := dial(second)
	if err := waiting.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := waiting.Read(make([]byte, 1)); !isTimeout(err) {
		t.Fatalf("a third connection was answered: %v", err)
	}
	_ = waiting.SetReadDeadline(time.Time{})
	answered(dial(metrics))
	_ = held.Close()
	answered(waiting)
}

// TestSlotsOfStoppedServer: a connection that waits for a slot ends with the server.
func TestSlotsOfStoppedServer(t *testing.T) {
	s, address := serveOn(t, newMemory(t), Config{MaxConnections: 1}, Endpoint{})
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := io.WriteString(c, "GET /health HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	waiting, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = waiting.Close() }()
	if err := s.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := waiting.Read(make([]byte, 1)); err == nil || isTimeout(err) {
		t.Errorf("the connection that waited: %v", err)
	}
}
