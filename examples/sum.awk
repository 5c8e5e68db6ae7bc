#!/usr/bin/awk -f
# Adds up numbers, one a line, and tells the sum after each: fflush() sends it at once.
# sum: {listen: 7773, exec: [examples/sum.awk]}
# Where awk is mawk, it reads ahead: exec: [/usr/bin/mawk, -W, interactive, -f, examples/sum.awk]
{
    sub(/\r$/, "")
    if ($0 ~ /^[+-]?[0-9]+(\.[0-9]+)?$/) {
        total += $0
        printf "%.10g\r\n", total
    } else
        printf "not a number\r\n"
    fflush()
}
