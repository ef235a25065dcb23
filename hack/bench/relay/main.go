// Three small programs for the relay benchmark, in one binary:
//
//	relay serve SOCKET            a runtime that answers any call with the requested number of bytes
//	relay proxy SOCKET UPSTREAM   a transparent proxy on github.com/siderolabs/grpc-proxy
//	relay load  SOCKET            make calls through SOCKET, and print one JSON object with the figures
//
// All of them handle bytes instead of messages, so that only the relaying is measured.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"math/rand/v2"
	"net"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/siderolabs/grpc-proxy/proxy"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
)

// largest is the limit of containerd and kubelet for a message.
const largest = 16 << 20

// answerBytes is the header with the requested size of the answer.
const answerBytes = "bench-answer-bytes"

// raw is a codec that passes messages as bytes.
type raw struct{}

func (raw) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }
func (raw) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = data
	return nil
}
func (raw) Name() string { return "proto" }

func main() {
	log.SetFlags(0)
	if len(os.Args) < 3 {
		log.Fatal("usage: relay serve SOCKET | proxy SOCKET UPSTREAM | load SOCKET [flags]")
	}
	var err error
	switch os.Args[1] {
	case "serve":
		err = serve(os.Args[2])
	case "proxy":
		err = forward(os.Args[2], os.Args[3])
	case "load":
		err = load(os.Args[2], os.Args[3:])
	default:
		err = fmt.Errorf("unknown program %q", os.Args[1])
	}
	if err != nil {
		log.Fatal(err)
	}
}

func serve(socket string) error {
	answer := make([]byte, largest)
	handler := func(_ any, stream grpc.ServerStream) error {
		var request []byte
		if err := stream.RecvMsg(&request); err != nil {
			return err
		}
		size := 0
		headers, _ := metadata.FromIncomingContext(stream.Context())
		if values := headers.Get(answerBytes); len(values) > 0 {
			size, _ = strconv.Atoi(values[0])
		}
		part := answer[:size]
		return stream.SendMsg(&part)
	}
	return listen(socket, grpc.NewServer(
		grpc.ForceServerCodec(raw{}),
		grpc.UnknownServiceHandler(handler),
		grpc.MaxRecvMsgSize(largest), grpc.MaxSendMsgSize(largest),
	))
}

func forward(socket, upstream string) error {
	conn, err := dial(upstream, grpc.WithDefaultCallOptions(
		grpc.ForceCodecV2(proxy.Codec()),
		grpc.MaxCallRecvMsgSize(largest), grpc.MaxCallSendMsgSize(largest)))
	if err != nil {
		return err
	}
	backend := &proxy.SingleBackend{
		GetConn: func(ctx context.Context) (context.Context, *grpc.ClientConn, error) {
			headers, _ := metadata.FromIncomingContext(ctx)
			return metadata.NewOutgoingContext(ctx, headers.Copy()), conn, nil
		},
	}
	director := func(context.Context, string) (proxy.Mode, []proxy.Backend, error) {
		return proxy.One2One, []proxy.Backend{backend}, nil
	}
	return listen(socket, grpc.NewServer(
		grpc.ForceServerCodecV2(proxy.Codec()),
		grpc.UnknownServiceHandler(proxy.TransparentHandler(director)),
		grpc.MaxRecvMsgSize(largest), grpc.MaxSendMsgSize(largest),
	))
}

func listen(socket string, server *grpc.Server) error {
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	go func() { <-stop; server.Stop() }()
	return server.Serve(listener)
}

func dial(socket string, options ...grpc.DialOption) (*grpc.ClientConn, error) {
	return grpc.NewClient("unix://"+socket, append(options,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithAuthority("localhost"))...)
}

// result is the output of load; times are in microseconds.
type result struct {
	Calls      int     `json:"calls"`
	Failures   int64   `json:"failures"`
	Wrong      int64   `json:"wrong"`
	Seconds    float64 `json:"seconds"`
	PerSecond  float64 `json:"calls_per_second"`
	P50        float64 `json:"p50_us"`
	P99        float64 `json:"p99_us"`
	FirstError string  `json:"first_error,omitempty"`
}

func load(socket string, arguments []string) error {
	flags := flag.NewFlagSet("load", flag.ExitOnError)
	methods := flags.String("methods", "/runtime.v1.RuntimeService/ListContainers",
		"what to call, in turns, separated by commas")
	inFlight := flags.Int("in-flight", 1, "calls at a time")
	duration := flags.Duration("duration", 3*time.Second, "for how long")
	size := flags.Int("answer-bytes", 100, "length of an answer, if the runtime is ours")
	mixed := flags.Bool("mixed", false, "make answers of any length up to -answer-bytes")
	warmUp := flags.Int("warm-up", 200, "calls before the clock starts")
	pace := flags.Duration("pace", 0, "time from one call to the next of each in flight; 0 is none")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	conn, err := dial(socket, grpc.WithDefaultCallOptions(
		grpc.ForceCodec(raw{}), grpc.MaxCallRecvMsgSize(largest)))
	if err != nil {
		return err
	}
	defer conn.Close()
	paths := strings.Split(*methods, ",")
	var turns, wrong atomic.Int64
	call := func() error {
		length, turn := *size, int(turns.Add(1))
		if *mixed {
			length = rand.IntN(*size + 1)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		ctx = metadata.AppendToOutgoingContext(ctx, answerBytes, strconv.Itoa(length))
		request, answer := []byte{}, []byte{}
		err := conn.Invoke(ctx, paths[turn%len(paths)], &request, &answer)
		if err == nil && len(answer) != length {
			wrong.Add(1)
		}
		return err
	}
	for range *warmUp {
		if err := call(); err != nil {
			return err
		}
	}
	out := result{}
	var first sync.Once
	var failures atomic.Int64
	took := make([][]float64, *inFlight)
	var group sync.WaitGroup
	start := time.Now()
	for worker := range *inFlight {
		group.Go(func() {
			next := time.Now()
			for time.Since(start) < *duration {
				if *pace > 0 {
					next = next.Add(*pace)
					time.Sleep(time.Until(next))
				}
				begin := time.Now()
				if err := call(); err != nil {
					failures.Add(1)
					first.Do(func() { out.FirstError = err.Error() })
					time.Sleep(10 * time.Millisecond) // unavailable: kubelet would wait, too
					continue
				}
				took[worker] = append(took[worker], float64(time.Since(begin).Nanoseconds())/1e3)
			}
		})
	}
	group.Wait()
	out.Seconds = time.Since(start).Seconds()
	all := slices.Concat(took...)
	slices.Sort(all)
	out.Calls, out.Failures, out.Wrong = len(all), failures.Load(), wrong.Load()
	out.PerSecond = float64(len(all)) / out.Seconds
	if len(all) > 0 {
		out.P50, out.P99 = all[len(all)/2], all[len(all)*99/100]
	}
	return json.NewEncoder(os.Stdout).Encode(out)
}
