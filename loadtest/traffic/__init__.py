"""Open-loop load: requests leave when the schedule says so, however long the answers take.

mix + arrivals -> offer -> samples ─┐
service's metrics before and after ─┴-> table, plot, JSON

Written here rather than taken from locust: there a user waits for its answer before it sends again, and a shape starts
users once a second, so what the service itself has put off is lost from the percentiles (coordinated omission).
"""
