// The page, section by section.

function showSections() {
  const names = { guards: "Guards", curves: "Curves", lists: "Worth a look", samples: "Samples", times: "Time", facts: "Facts" };
  $("sections").append(
    ...Object.entries(names)
      .filter(([id]) => !$(id).hidden)
      .map(([id, label]) => el("a", { href: `#${id}` }, label)),
  );
}

showSource();
showNotices();
showGuards();
showHeadline();
showCurves();
showLists();
showTimes();
showFacts();
showSamples();
showSections();
