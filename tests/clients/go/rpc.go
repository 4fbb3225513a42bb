package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/interop"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// rpcServe is gRPC's own test server (its interoperability tests), in the clear; every answer says in a header whose it is.
func rpcServe(arguments []string) error {
	flags := flag.NewFlagSet("rpc-serve", flag.ExitOnError)
	listen := flags.String("listen", "", "address and port")
	name := flags.String("name", "", "what it calls itself")
	flags.Parse(arguments)
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	say := func(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		grpc.SetHeader(ctx, metadata.Pairs("x-backend", *name))
		return handler(ctx, request)
	}
	server := grpc.NewServer(grpc.UnaryInterceptor(say))
	pb.RegisterTestServiceServer(server, interop.NewTestServer())
	fmt.Println("ready")
	return server.Serve(listener)
}

type test = func(context.Context, pb.TestServiceClient, ...grpc.CallOption)

// rpc runs tests of gRPC's interoperability tests; those end the program where they fail. `who` is a call that says whose answer came,
// `code` one that says which status came.
func rpc(arguments []string) error {
	flags := flag.NewFlagSet("rpc", flag.ExitOnError)
	address := flags.String("address", "", "where to connect")
	authority := flags.String("ca", "", "PEM of the authority; without, in the clear")
	name := flags.String("name", "", "the authority of the calls, and the server name")
	header := flags.String("header", "", "x-kind of the calls")
	compressed := flags.Bool("compressed", false, "messages go in gzip, both ways")
	hold := flags.Duration("hold", 0, "how long to go on with the tests, one after the other")
	flags.Parse(arguments)
	security := insecure.NewCredentials()
	if *authority != "" {
		config, err := trust(*authority)
		if err != nil {
			return err
		}
		config.ServerName = *name
		security = credentials.NewTLS(config)
	}
	options := []grpc.DialOption{grpc.WithTransportCredentials(security), grpc.WithAuthority(*name)}
	if *compressed {
		options = append(options, grpc.WithDefaultCallOptions(grpc.UseCompressor(gzip.Name)))
	}
	connection, err := grpc.NewClient("passthrough:///"+*address, options...)
	if err != nil {
		return err
	}
	defer connection.Close()
	client := pb.NewTestServiceClient(connection)
	patience, cancel := context.WithTimeout(context.Background(), 20*time.Second+*hold)
	defer cancel()
	if *header != "" {
		patience = metadata.AppendToOutgoingContext(patience, "x-kind", *header)
	}
	tests := map[string]test{
		"empty_unary":                 interop.DoEmptyUnaryCall,
		"large_unary":                 interop.DoLargeUnaryCall,
		"client_streaming":            interop.DoClientStreaming,
		"server_streaming":            interop.DoServerStreaming,
		"ping_pong":                   interop.DoPingPong,
		"empty_stream":                interop.DoEmptyStream,
		"timeout_on_sleeping_server":  interop.DoTimeoutOnSleepingServer,
		"cancel_after_begin":          interop.DoCancelAfterBegin,
		"cancel_after_first_response": interop.DoCancelAfterFirstResponse,
		"custom_metadata":             interop.DoCustomMetadata,
		"status_code_and_message":     interop.DoStatusCodeAndMessage,
		"special_status_message":      interop.DoSpecialStatusMessage,
		"unimplemented_method": func(ctx context.Context, _ pb.TestServiceClient, _ ...grpc.CallOption) {
			interop.DoUnimplementedMethod(ctx, connection)
		},
	}
	rounds := 0
	for end := time.Now().Add(*hold); rounds == 0 || time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if err := round(patience, client, tests, flags.Args(), rounds == 0); err != nil {
			return fmt.Errorf("round %d: %w", rounds, err)
		}
		rounds++
	}
	if *hold > 0 {
		fmt.Println(rounds*flags.NArg(), "calls passed")
	}
	return nil
}

// round runs each of the tests once, and says so when told to.
func round(ctx context.Context, client pb.TestServiceClient, tests map[string]test, names []string, aloud bool) error {
	for _, name := range names {
		switch test := tests[name]; {
		case test != nil:
			test(ctx, client)
		case name == "who" || name == "code":
			var said metadata.MD
			_, err := client.EmptyCall(ctx, &pb.Empty{}, grpc.Header(&said))
			if name == "who" && err != nil {
				return err
			}
			if aloud {
				fmt.Println(said.Get("x-backend"), status.Code(err), status.Convert(err).Message())
			}
		default:
			return fmt.Errorf("no test is called %q", name)
		}
		if aloud {
			fmt.Println(name, "passed")
		}
	}
	return nil
}
