package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/coder/websocket"
)

// web is a backend for HTTP/1.1 and, by prior knowledge, HTTP/2, both in the clear. It says who it is and what it was asked.
func web(arguments []string) error {
	flags := flag.NewFlagSet("web", flag.ExitOnError)
	listen := flags.String("listen", "", "address and port")
	name := flags.String("name", "", "what it calls itself")
	flags.Parse(arguments)

	paths := http.NewServeMux()
	paths.HandleFunc("/", func(answer http.ResponseWriter, request *http.Request) {
		header := request.Header
		answer.Header().Set("X-Backend", *name)
		fmt.Fprintf(answer, "%s %s %s %s %s for=%s proto=%s\n", *name, request.Proto, request.Method, request.Host, request.RequestURI,
			header.Get("X-Forwarded-For"), header.Get("X-Forwarded-Proto"))
	})
	paths.HandleFunc("/headers", func(answer http.ResponseWriter, request *http.Request) {
		request.Header.Write(answer)
	})
	paths.HandleFunc("/echo", func(answer http.ResponseWriter, request *http.Request) {
		// Or the server swallows the beginning of a body of HTTP/1 before it answers.
		http.NewResponseController(answer).EnableFullDuplex()
		io.Copy(answer, request.Body)
	})
	// /bytes?count=N
	paths.HandleFunc("/bytes", func(answer http.ResponseWriter, request *http.Request) {
		count, _ := strconv.ParseInt(request.FormValue("count"), 10, 64)
		io.CopyN(answer, zeros{}, count)
	})
	// One event, and another when the client has had time to see the first.
	paths.HandleFunc("/events", func(answer http.ResponseWriter, request *http.Request) {
		answer.Header().Set("Content-Type", "text/event-stream")
		for i := range 2 {
			fmt.Fprintf(answer, "data: %d\n\n", i)
			answer.(http.Flusher).Flush()
			time.Sleep(2 * time.Second)
		}
	})
	paths.HandleFunc("/trailers", func(answer http.ResponseWriter, request *http.Request) {
		answer.Header().Set("Trailer", "X-Sum")
		fmt.Fprintln(answer, "body")
		answer.Header().Set("X-Sum", "42")
	})
	// Asks the URL in `ask` with a preflight, and writes what came, or why nothing did.
	paths.HandleFunc("/page", func(answer http.ResponseWriter, request *http.Request) {
		answer.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(answer, `<body>waiting</body><script>
			const how = performance.getEntriesByType("navigation")[0].nextHopProtocol
			fetch(%q, {method: "PUT", headers: {"X-Own": "1"}})
				.then(async answer => await answer.text() + "backend=" + answer.headers.get("X-Backend"))
				.catch(String)
				.then(text => document.body.textContent = "by " + how + ": " + text)
		</script>`, request.FormValue("ask"))
	})
	paths.HandleFunc("/socket", func(answer http.ResponseWriter, request *http.Request) {
		socket, err := websocket.Accept(answer, request, &websocket.AcceptOptions{InsecureSkipVerify: true})
		if err != nil {
			return
		}
		defer socket.CloseNow()
		socket.SetReadLimit(1 << 24)
		for {
			kind, message, err := socket.Read(request.Context())
			if err != nil {
				return
			}
			if string(message) == "who" {
				message = []byte(*name)
			}
			if err := socket.Write(request.Context(), kind, message); err != nil {
				return
			}
		}
	})
	// The same, for who is routed by a prefix that stays.
	for _, prefix := range []string{"/both", "/both-h2"} {
		paths.Handle(prefix+"/echo", http.StripPrefix(prefix, paths))
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{Handler: paths, Protocols: protocols}
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	return server.Serve(listener)
}

type zeros struct{}

func (zeros) Read(buffer []byte) (int, error) {
	clear(buffer)
	return len(buffer), nil
}

// socket talks to a WebSocket: asks who is there, then sends messages of many sizes and wants each back as it was, over a second or so.
func socket(arguments []string) error {
	flags := flag.NewFlagSet("socket", flag.ExitOnError)
	url := flags.String("url", "", "ws:// or wss://")
	authority := flags.String("ca", "", "PEM of the authority")
	hold := flags.Duration("hold", 0, "how long to go on with a message every 100 ms")
	flags.Parse(arguments)
	patience, cancel := context.WithTimeout(context.Background(), 20*time.Second+*hold)
	defer cancel()
	client, err := trusting(*authority)
	if err != nil {
		return err
	}
	connection, _, err := websocket.Dial(patience, *url, &websocket.DialOptions{HTTPClient: client})
	if err != nil {
		return err
	}
	defer connection.CloseNow()
	connection.SetReadLimit(1 << 24)
	exchange := func(message []byte) ([]byte, error) {
		if err := connection.Write(patience, websocket.MessageBinary, message); err != nil {
			return nil, err
		}
		_, answer, err := connection.Read(patience)
		return answer, err
	}
	name, err := exchange([]byte("who"))
	if err != nil {
		return err
	}
	messages := 0
	for size := 0; size <= 1<<20; size = size*3 + 1 {
		message := make([]byte, size)
		for i := range message {
			message[i] = byte(i * 31)
		}
		answer, err := exchange(message)
		if err != nil {
			return fmt.Errorf("message of %d bytes: %w", size, err)
		}
		if string(answer) != string(message) {
			return fmt.Errorf("a message of %d bytes came back as another of %d", size, len(answer))
		}
		messages++
	}
	for end := time.Now().Add(*hold); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if _, err := exchange([]byte("still here")); err != nil {
			return err
		}
		messages++
	}
	fmt.Printf("%s: %d messages came back as they were\n", name, messages)
	return connection.Close(websocket.StatusNormalClosure, "")
}

// bodies sends a body to each URL in turn and wants it back, byte for byte, again and again: by turns with a length and without, of a few bytes
// and of megabytes.
func bodies(arguments []string) error {
	flags := flag.NewFlagSet("bodies", flag.ExitOnError)
	authority := flags.String("ca", "", "PEM of the authority")
	hold := flags.Duration("hold", 0, "how long to go on")
	flags.Parse(arguments)
	config, err := trust(*authority)
	if err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}, Timeout: 20 * time.Second}
	sent := make([]byte, 4<<20)
	for i := range sent {
		sent[i] = byte(i * 31 >> 3)
	}
	count := 0
	for end := time.Now().Add(*hold); count == 0 || time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		for i, url := range flags.Args() {
			body := sent[:len(sent)>>(4*(count%6))]
			var reader io.Reader = bytes.NewReader(body)
			if (count+i)%2 == 0 {
				// Hides how long it is.
				reader = struct{ io.Reader }{reader}
			}
			if err := echoed(client, url, reader, body); err != nil {
				return fmt.Errorf("%d bytes to %s, round %d: %w", len(body), url, count, err)
			}
		}
		count++
	}
	fmt.Println(count*flags.NArg(), "bodies came back as they were")
	return nil
}

func echoed(client *http.Client, url string, body io.Reader, wanted []byte) error {
	answer, err := client.Post(url, "application/octet-stream", body)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	got, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK || !bytes.Equal(got, wanted) {
		return fmt.Errorf("%s with another body, of %d bytes", answer.Status, len(got))
	}
	return nil
}

func trusting(authority string) (*http.Client, error) {
	if authority == "" {
		return http.DefaultClient, nil
	}
	config, err := trust(authority)
	if err != nil {
		return nil, err
	}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: config}}, nil
}

func trust(authority string) (*tls.Config, error) {
	pem, err := os.ReadFile(authority)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, errors.New("no certificate in " + authority)
	}
	return &tls.Config{RootCAs: roots}, nil
}
