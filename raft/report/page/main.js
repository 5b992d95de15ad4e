// The page, section by section.

function showSections() {
  const names = { guards: "Guards", curves: "Curves", scores: "Scores", lists: "Worth a look", samples: "Samples", times: "Time", facts: "Facts" };
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
showHistogram();
showLists();
showTimes();
showFacts();
showSamples();
showSections();
addEventListener("hashchange", openLinked);
openLinked();
