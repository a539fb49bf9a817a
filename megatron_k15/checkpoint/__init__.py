"""Checkpoints: conversion between Hugging Face and Megatron directories, resume checkpoints, Hugging Face export."""
