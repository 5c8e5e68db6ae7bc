#!/nosuch/sh
