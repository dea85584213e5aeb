"""Certificates: the signed evidence of a request, verified offline, and what is written from it for people."""
