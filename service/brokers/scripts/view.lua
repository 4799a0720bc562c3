-- What gauges show.

return view()
