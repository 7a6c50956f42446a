# shellcheck shell=bash
# Completion of mom's command line for bash.
_mom() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]}
    # bash takes --sandbox=docker:x apart at = and :
    [ "$word" != = ] || word=
    [ "$before" != = ] || before=${COMP_WORDS[COMP_CWORD - 2]}
    case $before in
    --sandbox) mapfile -t COMPREPLY < <(compgen -W "host docker:mom-sandbox podman:mom-sandbox kubectl:" -- "$word") ;;
    --model) mapfile -t COMPREPLY < <(compgen -W "offline anthropic/ openai/ openrouter/ groq/
            mistral/ gemini/ deepseek/ xai/ together/ cerebras/ moonshot/ zai/ ollama/ llamacpp/ vllm/ lmstudio/ custom/" -- "$word") ;;
    --approve) mapfile -t COMPREPLY < <(compgen -W "off changes all" -- "$word") ;;
    --log-level) mapfile -t COMPREPLY < <(compgen -W "error warn info debug" -- "$word") ;;
    --price | --budget | --allow-users | --allow-channels | --download | --since) ;;
    *)
        case $word in
        -*) mapfile -t COMPREPLY < <(compgen -W "--chat --check --manifest --download --usage
            --sandbox= --model= --price= --budget= --allow-users= --allow-channels= --approve= --follow-threads --log-level= --since= --help --version" -- "$word") ;;
        *) mapfile -t COMPREPLY < <(compgen -d -- "$word") ;;
        esac
        [[ ${COMPREPLY-} != *= ]] || compopt -o nospace
        ;;
    esac
}
complete -o filenames -F _mom mom

_mom_sandbox() {
    case $COMP_CWORD in
    1) mapfile -t COMPREPLY < <(compgen -W "create start stop remove status shell --help" -- "$2") ;;
    *) [ "$3" != create ] || mapfile -t COMPREPLY < <(compgen -d -- "$2") ;;
    esac
}
complete -o filenames -F _mom_sandbox mom-sandbox
