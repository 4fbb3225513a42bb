module sluice.dev/tests/clients

go 1.26
