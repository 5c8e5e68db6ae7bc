#!/usr/bin/env perl
# Counts lines, words and bytes until the peer half-closes, then answers once.
# wc: {listen: 7774, exec: [examples/wc.pl]}
use strict;
use warnings;

my ($lines, $words, $bytes) = (0, 0, 0);
while (my $line = <STDIN>) {
    $lines++ if $line =~ /\n\z/;
    $words += () = $line =~ /\S+/g;
    $bytes += length $line;
}
printf "%d lines, %d words, %d bytes\r\n", $lines, $words, $bytes;
