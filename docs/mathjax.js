// Loads MathJax on a page that has formulas, and nowhere else.
window.MathJax = {tex: {inlineMath: [["\\(", "\\)"]], displayMath: [["\\[", "\\]"]]}, options: {ignoreHtmlClass: ".*|", processHtmlClass: "arithmatex"}};
document.addEventListener("DOMContentLoaded", () => {
  if (document.querySelector(".arithmatex")) {
    const script = document.createElement("script");
    script.src = "https://cdn.jsdelivr.net/npm/mathjax@3.2.2/es5/tex-chtml.js";
    document.head.append(script);
  }
});
